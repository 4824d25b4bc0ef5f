"""Commands about the ledger: `batchlic ledger show`, `import`, `export` and `forget`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from batchlic.cli.arguments import ledger_location, refuse_unusable_target
from batchlic.cli.completion import complete_skus
from batchlic.cli.help import Group, examples
from batchlic.cli.options import InventoryOptions, Json
from batchlic.cli.output import print_json, print_result
from batchlic.errors import ExitCode
from batchlic.figures import counted

app = typer.Typer(
    cls=Group, help="Show, import or export the ledger of licensed devices.", no_args_is_help=True
)

LedgerLocation = Annotated[
    str | None,
    typer.Option(
        "--ledger",
        metavar="PATH_OR_URL",
        help="Ledger: a file, or the URL of a PostgreSQL database.",
        show_default="the store, or ledger.db in the state folder",
        parser=ledger_location,
    ),
]


def _location(given: str | None) -> Path | str:
    """The ledger that is given, or that of the settings, which may have the password of a database."""
    from batchlic.settings import load_settings
    from batchlic.state import find_ledger

    if given is None:
        return find_ledger()
    if "://" in given:
        load_settings()
        return given
    return Path(given)


@app.command(
    epilog=examples(
        "batchlic ledger show",
        "batchlic ledger show --device 353456789012348",
    ),
)
def show(
    *,
    ledger: LedgerLocation = None,
    account: Annotated[str | None, typer.Option(metavar="ACCOUNT", help="Only this account.")] = None,
    sku: Annotated[
        str | None,
        typer.Option(metavar="SKU", help="Only this SKU.", autocompletion=complete_skus),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="ID", help="Only the device with this IMEI or ICCID.")
    ] = None,
    json: Json = False,
) -> None:
    """Count devices by license state, or show the records of one device."""
    from batchlic.cli.format import describe_counts, describe_device
    from batchlic.ledger.files import count_devices, find_device, open_existing

    with open_existing(_location(ledger)) as opened:
        if device is None:
            figures = count_devices(opened, account=account, sku=sku)
            print_json(figures) if json else print_result(describe_counts(figures))
        else:
            records = find_device(opened, device, account=account, sku=sku)
            print_json(records) if json else print_result(describe_device(device, records))


@app.command(
    "import",
    epilog=examples(
        "# A list of devices that are licensed already:",
        "batchlic ledger import licensed.csv --account 0000123456-00001 --sku SIMSec-IoT",
    ),
)
def import_(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="A results.parquet, a folder of runs, an export, or a list of licensed devices.",
        ),
    ],
    *,
    ledger: LedgerLocation = None,
    carrier: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Base URL of the carrier.",
            show_default="that of the profile, or BATCHLIC_BASE_URL",
        ),
    ] = None,
    account: Annotated[
        str | None, typer.Option(metavar="ACCOUNT", help="Default account for rows without one.")
    ] = None,
    sku: Annotated[
        str | None,
        typer.Option(metavar="SKU", help="Default SKU for rows without one.", autocompletion=complete_skus),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE=COLUMN", help="Column of a list, as for `batchlic plan`. Repeatable."),
    ] = None,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Accept lists without rows, instead of exit code 2.")
    ] = False,
    json: Json = False,
) -> None:
    """Import licensed devices into the ledger."""
    from contextlib import closing

    from batchlic.cli.format import describe_import
    from batchlic.job import make_job
    from batchlic.ledger import Ledger
    from batchlic.ledger.files import import_files
    from batchlic.runs.ledger_sync import refuse_at_work
    from batchlic.settings import load_settings

    content = {"action": "assign", "inventory": {"files": files}}
    flags = InventoryOptions(account=account, sku=sku, column=column).values()
    flags["inventory"]["allow_empty"] = allow_empty or None
    options = make_job(content, flags, where="options").read_options()
    where = (carrier or load_settings().base_url).rstrip("/")
    with closing(Ledger(_location(ledger))) as opened:
        refuse_at_work(opened, where)
        imported = import_files(opened, files, options, carrier=where)
    print_json(imported) if json else print_result(describe_import(imported))
    sys.exit(ExitCode.INCOMPLETE if imported.rejected else ExitCode.OK)


@app.command(
    epilog=examples(
        "batchlic ledger export --to licensed.parquet",
    ),
)
def export(
    *,
    to: Annotated[Path, typer.Option(metavar="PATH", help="File to write: .parquet or .csv.")],
    ledger: LedgerLocation = None,
) -> None:
    """Export the ledger, one row per device; `import` reads the file."""
    from batchlic.ledger.files import export_ledger, open_existing

    refuse_unusable_target(to)
    with open_existing(_location(ledger)) as opened:
        devices = export_ledger(opened, to)
    print_result(f"{counted(devices, 'device')} in {to}")


@app.command(
    epilog=examples(
        "batchlic ledger forget 20261121T213558Z-a39cc27f",
    ),
)
def forget(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="Unfinished run whose folder is lost.")],
    *,
    ledger: LedgerLocation = None,
    json: Json = False,
) -> None:
    """Close a run whose folder is lost. Devices that it did not record stay unknown."""
    from batchlic.cli.format import describe_forgotten
    from batchlic.ledger.files import forget_run, open_existing

    with open_existing(_location(ledger)) as opened:
        forgotten = forget_run(opened, run_id)
    print_json(forgotten) if json else print_result(describe_forgotten(forgotten))
