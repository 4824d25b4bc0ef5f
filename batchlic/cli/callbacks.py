"""Commands about callbacks and license counts: `listen`, `callbacks`, `reconcile`, `subscriptions`."""

import secrets
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from batchlic.cli.options import Json, OnSandbox, RunOptions, StoreLocation, parse_duration
from batchlic.cli.output import exit_as, open_target, print_json, print_message
from batchlic.errors import RunFolderError, UsageError
from batchlic.logs import printable

if TYPE_CHECKING:
    from batchlic.carrier.client import CarrierClient
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.preflight import RunListener
    from batchlic.runs.target import Target
    from batchlic.writer.summary import Summary

T = TypeVar("T")

app = typer.Typer()
callbacks = typer.Typer(
    help="List, register and deregister the listener of an account.", no_args_is_help=True
)
app.add_typer(callbacks, name="callbacks")

Account = Annotated[str, typer.Option(help="Account to ask about.")]

UNCONFIRMED_SHOWN = 10


@app.command()
def listen(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 finds a free one.")] = 9001,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Private key, PEM [in the same file].")] = None,
    store: StoreLocation = None,
    path: Annotated[str, typer.Option(help="URL path of callbacks.")] = "/callbacks/CarrierService",
    account: Annotated[
        str, typer.Option(help="Account of callbacks to exactly that path; others go to PATH/ACCOUNT.")
    ] = "",
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="Proxy whose X-Forwarded-For is trusted. Repeatable."),
    ] = None,
    until_eof: Annotated[bool, typer.Option("--until-eof", help="Stop when standard input ends.")] = False,
) -> None:
    """Receive the carrier's callbacks until stopped. See docs/callbacks.md."""
    from batchlic.callbacks.server import ListenerOptions, stop_when_stdin_ends
    from batchlic.callbacks.server import listen as serve
    from batchlic.callbacks.store import Store
    from batchlic.settings import load_settings

    settings = load_settings()
    options = ListenerOptions(
        host=host, port=port, path=path, account=account, tls_cert=tls_cert, tls_key=tls_key
    )
    access = settings.access(trusted_proxy or ())
    if until_eof:
        stop_when_stdin_ends()
    with closing(Store.open(settings.store(store))) as kept:
        serve(options, access, kept)


@app.command()
def reconcile(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run.")],
    *,
    store: StoreLocation = None,
    watch: Annotated[bool, typer.Option("--watch", help="Wait until every device is settled.")] = False,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="Wait no longer than this: 90s, 30m, 2h.")
    ] = None,
    json: Json = False,
) -> None:
    """Match callbacks with a run: devices become confirmed or failed. Exits as the run does."""
    from batchlic.callbacks.store import Store
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.reconcile import follow
    from batchlic.settings import load_settings

    patience = parse_duration(for_) if for_ else None if watch else 0.0
    if not run_dir.is_dir():
        raise RunFolderError(f"{run_dir}: there is no such run folder")
    with closing(Store.open(load_settings().store(store))) as kept:
        summary = follow(RunFolder(run_dir), kept, patience=patience)
    _say_unconfirmed(run_dir)
    exit_as(summary, run_dir, as_json=json)


@app.command()
def subscriptions(
    *,
    account: Account,
    sku: Annotated[str | None, typer.Option(help="Only this SKU.")] = None,
    sandbox: OnSandbox = False,
    json: Json = False,
) -> None:
    """Print the license counts of an account."""
    from batchlic.cli.format import describe_subscriptions

    found = _asked(lambda client: client.subscriptions(account, sku), on_sandbox=sandbox)
    print_json(found) if json else sys.stdout.write(describe_subscriptions(found) + "\n")


@callbacks.command("list")
def list_listeners(*, account: Account, json: Json = False) -> None:
    """Print the listeners of an account, without their passwords."""
    listeners = _asked(lambda client: client.listeners(account))
    if json:
        print_json(listeners)
        return
    for listener in listeners:
        sys.stdout.write(printable(f"{listener.service_name}  {listener.url}") + "\n")
    if not listeners:
        print_message(f"Account {account} has no listeners.")


@callbacks.command("register")
def register_listener(
    *,
    account: Account,
    url: Annotated[
        str, typer.Option(help="Address of the listener, as https://host/callbacks/CarrierService.")
    ],
) -> None:
    """Register URL/ACCOUNT for the callbacks of an account, with BATCHLIC_LISTENER_USERNAME and _PASSWORD."""
    from batchlic.callbacks.registration import registration_url, url_warnings
    from batchlic.settings import load_settings

    access = load_settings().access()
    where = registration_url(url, account)
    for warning in url_warnings(where):
        print_message(f"warning: {warning}")
    registered = _asked(
        lambda client: client.register_listener(account, where, access.username.reveal(), access.password)
    )
    print_message(f"{registered.service_name} of account {account} will be called back to {where}")


@callbacks.command("deregister")
def deregister_listener(*, account: Account) -> None:
    """Deregister the listener of an account."""
    gone = _asked(lambda client: client.deregister_listener(account))
    print_message(f"{gone.service_name} of account {account} has no listener any more")


@contextmanager
def run_listener(options: RunOptions, folder: "RunFolder") -> Iterator["RunListener | None"]:
    """The listener of a run that waits for callbacks, for as long as the block lasts; None without one."""
    if options.wait_callbacks is None or options.listen_port is None:
        if options.listen_port is not None:
            raise UsageError("--listen-port needs --wait-callbacks: say how long to wait")
        yield None
        return
    from batchlic.callbacks.server import ListenerOptions, listener_process
    from batchlic.carrier.credentials import Secret
    from batchlic.runs.preflight import RunListener
    from batchlic.settings import load_settings

    where = ListenerOptions(host=options.listen_host, port=options.listen_port)
    folder.make()
    if options.sandbox:
        username, password = "sandbox", secrets.token_urlsafe()
        settings = {"USERNAME": username, "PASSWORD": password, "ALLOWED_SOURCES": "127.0.0.1"}
    else:
        access = load_settings().access()
        username, password, settings = access.username.reveal(), access.password.reveal(), {}
    environment = {f"BATCHLIC_LISTENER_{name}": value for name, value in settings.items()}
    with listener_process(where, _store(options, folder), environment) as url:
        yield RunListener(url=url, username=Secret(username), password=Secret(password))


def refuse_unable_to_wait(options: RunOptions, folder: "RunFolder") -> None:
    """Raise UsageError before anything is sent, if the run can't wait for callbacks as its options say."""
    if options.wait_callbacks is not None:
        parse_duration(options.wait_callbacks)
        _store(options, folder)


def wait_for_callbacks(options: RunOptions, folder: "RunFolder") -> "Summary":
    """Reconcile a run until every device is settled, or for as long as its options say."""
    from batchlic.callbacks.store import Store
    from batchlic.runs.reconcile import follow

    print_message(f"Waiting for outcomes, up to {options.wait_callbacks}.")
    with closing(Store.open(_store(options, folder))) as store:
        summary = follow(folder, store, patience=parse_duration(options.wait_callbacks or "0"))
    _say_unconfirmed(folder.path)
    return summary


def _store(options: RunOptions, folder: "RunFolder") -> str:
    """The callbacks' store of a waiting run; its own listener uses the run folder by default."""
    from batchlic.settings import load_settings

    settings = load_settings()
    if options.store is None and settings.listener_store is None and options.listen_port is not None:
        return str(folder.path / "callbacks.db")
    return settings.store(options.store)


def _say_unconfirmed(run_dir: Path) -> None:
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.reconcile import unconfirmed

    devices = unconfirmed(RunFolder(run_dir))
    if devices.height:
        some = ", ".join(imei or iccid for imei, iccid in devices.head(UNCONFIRMED_SHOWN).iter_rows())
        print_message(
            f"{devices.height:,} accepted devices are unconfirmed, though the carrier's last try has passed: "
            f"{some}{', …' if devices.height > UNCONFIRMED_SHOWN else ''}"
        )


def _asked(question: "Callable[[CarrierClient], Awaitable[T]]", *, on_sandbox: bool = False) -> "T":
    """The carrier's answer to one question."""
    import anyio

    from batchlic.carrier.client import open_client
    from batchlic.job import Rehearsal

    async def ask(target: "Target") -> "T":
        async with open_client(target.base_url, target.credentials) as client:
            await client.login()
            answer = await question(client)
            await client.logout()
            return answer

    with open_target(Rehearsal() if on_sandbox else None) as target:
        return anyio.run(ask, target)
