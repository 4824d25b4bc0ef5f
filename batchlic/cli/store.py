"""Commands about the database that machines share: `batchlic store check` and `upgrade`."""

import sys

import typer

from batchlic.cli.help import Group, examples
from batchlic.cli.options import Json
from batchlic.cli.output import print_json, print_result
from batchlic.errors import ExitCode, UsageError

app = typer.Typer(
    cls=Group, help="Check or upgrade the PostgreSQL database that machines share.", no_args_is_help=True
)


def _store_name() -> str:
    from batchlic.settings import load_settings

    name = load_settings().store_name
    if name is None:
        raise UsageError("no store is set: set BATCHLIC_STORE to postgresql://USER@HOST/DATABASE")
    return name


@app.command(
    epilog=examples(
        "batchlic store check",
        "batchlic store check --json",
    ),
)
def check(*, json: Json = False) -> None:
    """Show server, schema, runs and leases of the store (BATCHLIC_STORE). Nothing changes there.

    Exit 0: runs can use the store. Exit 2: wrong address or login. Exit 3: not yet, for the reason that is
    shown. Exit 6: the server does not answer.
    """
    from batchlic.cli.format import describe_store
    from batchlic.journal.store_state import state_of

    state = state_of(_store_name())
    print_json(state) if json else print_result(describe_store(state))
    sys.exit(ExitCode.INCOMPLETE if state.problems else ExitCode.OK)


@app.command(
    epilog=examples(
        "# With the login of the tables' owner:",
        "batchlic store upgrade",
    ),
)
def upgrade(*, json: Json = False) -> None:
    """Create the tables of the store (BATCHLIC_STORE), or bring them to this version of batchlic.

    A store that is up to date stays as it is. Exit 4: sessions are at work there.
    """
    from batchlic.journal.store_state import upgrade as upgrade_store

    name = _store_name()
    before, after = upgrade_store(name)
    if json:
        print_json({"store": name, "from": before, "to": after})
    elif before == after:
        print_result(f"{name}: schema {after} is up to date")
    else:
        print_result(
            f"{name}: upgraded from {f'schema {before}' if before else 'no tables'} to schema {after}"
        )
