"""The command `batchlic serve`."""

from pathlib import Path
from typing import Annotated

import typer

from batchlic.cli.arguments import find_runs_folder, ledger_location
from batchlic.cli.help import Section, examples
from batchlic.cli.options import TlsCertificate, TlsKey
from batchlic.cli.output import print_notice
from batchlic.runs import signals

app = typer.Typer()


@app.command(
    rich_help_panel=Section.INSPECT,
    epilog=examples(
        "batchlic serve",
        "batchlic serve /srv/batchlic/runs --port 9002",
    ),
)
def serve(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of the runs: a path, or an address such as s3://BUCKET/PATH.",
            show_default="the state folder",
            parser=find_runs_folder,
        ),
    ] = None,
    *,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Address to listen on. Others than loopback need BATCHLIC_SERVE_TOKEN."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port; 0 finds a free one.")
    ] = 9002,
    public_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name under which a proxy offers the pages. Repeatable."),
    ] = None,
    ledger: Annotated[
        str | None,
        typer.Option(
            metavar="PATH_OR_URL",
            help="Ledger for the search: a file, or the URL of a PostgreSQL database.",
            show_default="the store, or ledger.db in FOLDER or the state folder",
            parser=ledger_location,
        ),
    ] = None,
    tls_cert: TlsCertificate = None,
    tls_key: TlsKey = None,
) -> None:
    """Show runs as web pages, read-only, until stopped."""
    from batchlic.carrier.credentials import refuse_odd_characters
    from batchlic.serving import Address
    from batchlic.settings import load_settings
    from batchlic.state import LEDGER, find_ledger, state_folder
    from batchlic.web.server import serve as serve_pages

    settings = load_settings()
    secret = settings.serve_token
    token = secret.get_secret_value() if secret else None
    if token is not None:
        refuse_odd_characters("BATCHLIC_SERVE_TOKEN", token)
    runs = folder or state_folder()
    beside = folder / LEDGER if folder and settings.store_name is None else None
    known = ledger or (beside if beside and beside.exists() else find_ledger(settings=settings))
    address = Address(host=host, port=port, tls_cert=tls_cert, tls_key=tls_key)
    signals.end_server_at_signals()
    signals.ignore_sighup()

    def on_listening() -> None:
        if token is None:
            print_notice("Pages without a login, for this machine only. Ctrl-C stops.")

    serve_pages(
        runs,
        known,
        address,
        token=token or None,
        public_hosts=tuple(public_host or ()),
        on_listening=on_listening,
    )
