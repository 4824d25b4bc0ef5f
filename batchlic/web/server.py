"""`batchlic serve`: serves the pages over TCP until a signal ends the server."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from batchlic.errors import UsageError
from batchlic.logs import console
from batchlic.serving import Address, Server
from batchlic.web.access import MIN_TOKEN, is_loopback
from batchlic.web.app import PageOptions, create_app


class PagesAddress(msgspec.Struct, frozen=True):
    """The URL of the pages, printed to stdout once they are served."""

    url: str


def serve(
    folder: Path,
    ledger: Path | str,
    address: Address,
    *,
    token: str | None,
    public_hosts: tuple[str, ...] = (),
    on_listening: Callable[[], None],
) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises UsageError, NoAccess or StoppedEarly before it listens."""
    check_token(token, address.host, public_hosts)
    logger = console(secrets=[token or ""])
    server = Server(address, logger)
    options = PageOptions(
        folder=folder,
        ledger=ledger,
        token=token,
        host=address.host,
        public_hosts=public_hosts,
        is_tls=address.tls_cert is not None,
    )
    app = create_app(options, is_stopping=lambda: server.is_stopping)

    def announce(url: str) -> None:
        on_listening()
        print(msgspec.json.encode(PagesAddress(f"{url}/")).decode(), flush=True)  # noqa: T201 - the result

    server.run(app, announce)


def check_token(token: str | None, host: str, public_hosts: tuple[str, ...]) -> None:
    """Raise UsageError if the token is too short, or missing although others than this machine may come."""
    setting = "BATCHLIC_SERVE_TOKEN"
    if token is None:
        if is_loopback(host) and not public_hosts:
            return
        where = f"--host {host}" if not is_loopback(host) else f"--public-host {public_hosts[0]}"
        raise UsageError(
            f"{where}: others can reach these pages, so they need a token: set {setting} to at least "
            f"{MIN_TOKEN} characters, such as the output of `openssl rand -hex 32`"
        )
    if len(token) < MIN_TOKEN:
        raise UsageError(f"{setting} has {len(token)} characters: it needs at least {MIN_TOKEN}")
