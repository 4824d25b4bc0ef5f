"""The command `batchlic serve`."""

from pathlib import Path
from typing import Annotated

import typer

from batchlic.cli.output import print_message
from batchlic.runs import signals

app = typer.Typer()


@app.command()
def serve(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", readable=False, help="Folder of the runs [the state folder]."),
    ] = None,
    *,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Others than loopback need BATCHLIC_SERVE_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 finds a free one.")] = 9002,
    public_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name under which a proxy offers the pages. Repeatable."),
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(help="Ledger file for the search [ledger.db in FOLDER or the state folder]."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Private key, PEM [in the same file].")] = None,
) -> None:
    """Show runs as web pages, read-only, until stopped. See docs/how-to/pages.md."""
    from batchlic.carrier.credentials import refuse_odd_characters
    from batchlic.serving import Address
    from batchlic.settings import load_settings
    from batchlic.state import LEDGER, find_ledger, state_folder
    from batchlic.web.server import serve as serve_pages

    secret = load_settings().serve_token
    token = secret.get_secret_value() if secret else None
    if token is not None:
        refuse_odd_characters("BATCHLIC_SERVE_TOKEN", token)
    runs = folder or state_folder()
    known = ledger or (folder / LEDGER if folder and (folder / LEDGER).exists() else find_ledger())
    address = Address(host=host, port=port, tls_cert=tls_cert, tls_key=tls_key)
    signals.end_server_at_signals()
    signals.ignore_sighup()
    if token is None:
        print_message("Pages without a login, for this machine only. Ctrl-C stops.")
    serve_pages(runs, known, address, token=token or None, public_hosts=tuple(public_host or ()))
