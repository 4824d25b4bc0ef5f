"""Commands about callbacks and license counts: `listen`, `callbacks`, `reconcile`, `subscriptions`."""

import secrets
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from batchlic.cli.arguments import RunDirectory
from batchlic.cli.completion import complete_skus
from batchlic.cli.help import Group, Section, examples
from batchlic.cli.options import (
    Json,
    OnSandbox,
    StoreLocation,
    TlsCertificate,
    TlsKey,
    WaitOptions,
    parse_duration,
)
from batchlic.cli.output import exit_as, open_target, print_json, print_notice, print_result, print_warning
from batchlic.cli.profiles import account_or_default
from batchlic.errors import UsageError
from batchlic.figures import counted
from batchlic.runs import signals

if TYPE_CHECKING:
    from batchlic.carrier.client import Carrier
    from batchlic.carrier.messages import Subscription
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.preflight import RunListener
    from batchlic.runs.target import Target
    from batchlic.writer.summary import Summary

T = TypeVar("T")

app = typer.Typer()
callbacks = typer.Typer(
    cls=Group,
    help="List, register and deregister the listener of an account; show callbacks that settle nothing.",
    no_args_is_help=True,
)

Account = Annotated[
    str,
    typer.Option(
        metavar="ACCOUNT",
        help="Account name.",
        callback=account_or_default,
        show_default="that of the profile, or BATCHLIC_ACCOUNT",
    ),
]

UNCONFIRMED_SHOWN = 10
"""Most unconfirmed devices that a message names."""


@app.command(
    rich_help_panel=Section.CALLBACKS,
    epilog=examples(
        "# Behind a proxy that ends TLS on this machine:",
        "batchlic listen --store callbacks.db --trusted-proxy 127.0.0.1",
    ),
)
def listen(
    *,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port; 0 finds a free one.")
    ] = 9001,
    tls_cert: TlsCertificate = None,
    tls_key: TlsKey = None,
    store: StoreLocation = None,
    path: Annotated[
        str, typer.Option(metavar="URL_PATH", help="URL path of callbacks.")
    ] = "/callbacks/CarrierService",
    account: Annotated[
        str,
        typer.Option(
            metavar="ACCOUNT", help="Account of callbacks to URL_PATH; others go to URL_PATH/ACCOUNT."
        ),
    ] = "",
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="Proxy whose X-Forwarded-For is trusted. Repeatable."),
    ] = None,
    until_eof: Annotated[bool, typer.Option("--until-eof", help="Stop when standard input ends.")] = False,
) -> None:
    """Receive the callbacks of the carrier until stopped."""
    from batchlic.callbacks.server import ListenerOptions, stop_when_stdin_ends
    from batchlic.callbacks.server import listen as serve
    from batchlic.callbacks.store import Store
    from batchlic.settings import load_settings

    settings = load_settings()
    options = ListenerOptions(
        host=host, port=port, path=path, account=account, tls_cert=tls_cert, tls_key=tls_key
    )
    access = settings.access(trusted_proxy or ())
    signals.end_server_at_signals()
    signals.ignore_sighup()
    if until_eof:
        stop_when_stdin_ends()
    with closing(Store.open(settings.callback_store(store))) as opened:
        serve(options, access, opened)


@app.command(
    rich_help_panel=Section.CALLBACKS,
    epilog=examples(
        "batchlic reconcile 20261121T213558Z-a39cc27f",
        "# Wait for the rest of the callbacks, at most two hours:",
        "batchlic reconcile 20261121T213558Z-a39cc27f --watch --for 2h",
    ),
)
def reconcile(
    run_dir: RunDirectory,
    *,
    store: StoreLocation = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Wait until every device is confirmed or failed.")
    ] = False,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="Wait at most this long: 90s, 30m, 2h.")
    ] = None,
    json: Json = False,
) -> None:
    """Match callbacks with a run: its devices become confirmed or failed. The exit code is the run's."""
    from batchlic.callbacks.store import Store
    from batchlic.runs.folder import RunFolder, missing_folder
    from batchlic.runs.reconcile import follow
    from batchlic.settings import load_settings

    patience = parse_duration(for_) if for_ else None if watch else 0.0
    if not run_dir.is_dir():
        raise missing_folder(run_dir)
    with closing(Store.open_existing(load_settings().callback_store(store))) as opened:
        summary = follow(RunFolder(run_dir), opened, patience=patience)
    _print_open_ends(run_dir)
    exit_as(summary, run_dir, as_json=json)


@app.command(
    rich_help_panel=Section.INSPECT,
    epilog=examples(
        "batchlic subscriptions --account 0000123456-00001",
    ),
)
def subscriptions(
    *,
    account: Account = "",
    sku: Annotated[
        str | None, typer.Option(metavar="SKU", help="Only this SKU.", autocompletion=complete_skus)
    ] = None,
    sandbox: OnSandbox = False,
    json: Json = False,
) -> None:
    """Print the license counts of an account."""
    from batchlic.cli.format import describe_subscriptions

    async def ask(client: "Carrier") -> "list[Subscription]":
        counts = await client.subscriptions(account, sku)
        if (name := client.counted_as(account)) != account:
            print_notice(f"The carrier gives the license counts of {account} under the name {name}.")
        return counts

    counts = _ask_carrier(ask, on_sandbox=sandbox)
    print_json(counts) if json else sys.stdout.write(describe_subscriptions(counts) + "\n")


@callbacks.command(
    "list",
    epilog=examples(
        "batchlic callbacks list --account 0000123456-00001",
    ),
)
def list_listeners(*, account: Account = "", json: Json = False) -> None:
    """Print the listeners of an account, without their passwords."""
    from batchlic.logs import printable

    listeners = _ask_carrier(lambda client: client.listeners(account))
    if json:
        print_json(listeners)
        return
    for listener in listeners:
        sys.stdout.write(printable(f"{listener.service_name}  {listener.url}") + "\n")
    if not listeners:
        print_notice(f"Account {account} has no listeners.")


@callbacks.command(
    "unjudged",
    epilog=examples(
        "batchlic callbacks unjudged --store callbacks.db",
    ),
)
def list_unjudged(*, store: StoreLocation = None, json: Json = False) -> None:
    """Print the stored callbacks that name no device, or report neither success nor failure."""
    from batchlic.callbacks.store import Store
    from batchlic.callbacks.unjudged import unjudged_callbacks
    from batchlic.cli.format import describe_unjudged
    from batchlic.settings import load_settings

    with closing(Store.open_existing(load_settings().callback_store(store))) as opened:
        found = unjudged_callbacks(opened)
    if json:
        print_json(found)
    elif found:
        sys.stdout.write(describe_unjudged(found) + "\n")
    else:
        print_notice("Each stored callback names a device and reports its success or failure.")


@callbacks.command(
    "register",
    epilog=examples(
        "batchlic callbacks register --account 0000123456-00001 "
        "--url https://example.com/callbacks/CarrierService",
    ),
)
def register_listener(
    *,
    account: Account = "",
    url: Annotated[
        str,
        typer.Option(
            metavar="URL", help="URL of the listener, such as https://host/callbacks/CarrierService."
        ),
    ],
) -> None:
    """Register URL/ACCOUNT for the callbacks of an account.

    The carrier then logs in with BATCHLIC_LISTENER_USERNAME and BATCHLIC_LISTENER_PASSWORD.
    """
    from batchlic.callbacks.registration import registration_url, url_warnings
    from batchlic.settings import load_settings

    access = load_settings().access()
    where = registration_url(url, account)
    for warning in url_warnings(where):
        print_warning(warning)
    registered = _ask_carrier(
        lambda client: client.register_listener(account, where, access.username.reveal(), access.password)
    )
    print_result(f"Registered: {registered.service_name} callbacks of account {account} go to {where}.")


@callbacks.command(
    "deregister",
    epilog=examples(
        "batchlic callbacks deregister --account 0000123456-00001",
    ),
)
def deregister_listener(*, account: Account = "") -> None:
    """Deregister the listener of an account."""
    deregistered = _ask_carrier(lambda client: client.deregister_listener(account))
    print_result(f"Deregistered: {deregistered.service_name} of account {account} has no listener now.")


@contextmanager
def run_listener(
    options: WaitOptions, folder: "RunFolder", *, on_sandbox: bool
) -> Iterator["RunListener | None"]:
    """The listener that a waiting run starts, until the block ends; None without --listen-port."""
    if options.wait_callbacks is None or options.listen_port is None:
        yield None
        return
    from batchlic.callbacks.server import ListenerOptions, listener_process
    from batchlic.carrier.credentials import Secret
    from batchlic.runs.preflight import RunListener
    from batchlic.settings import load_settings

    where = ListenerOptions(host=options.listen_host, port=options.listen_port)
    if on_sandbox:
        username, password = "sandbox", secrets.token_urlsafe()
        settings = {"USERNAME": username, "PASSWORD": password, "ALLOWED_SOURCES": "127.0.0.1"}
    else:
        access = load_settings().access()
        username, password, settings = access.username.reveal(), access.password.reveal(), {}
    environment = {f"BATCHLIC_LISTENER_{name}": value for name, value in settings.items()}
    with (
        folder.made(),
        _own_store(options, folder) as store,
        listener_process(where, store, environment) as url,
    ):
        yield RunListener(url=url, username=Secret(username), password=Secret(password))


@contextmanager
def _own_store(options: WaitOptions, folder: "RunFolder") -> Iterator[str]:
    """The store of a run's listener. If the run is refused, a store in its new folder is removed again."""
    store, is_new = _store(options, folder), not folder.journal.exists()
    try:
        yield store
    except BaseException:
        if is_new and not folder.journal.exists() and Path(store).parent == folder.path:
            for leftover in folder.path.glob(f"{Path(store).name}*"):
                leftover.unlink(missing_ok=True)
        raise


def check_wait_options(options: WaitOptions, folder: "RunFolder") -> None:
    """Raise UsageError if a run can't wait for callbacks as its options say."""
    if options.wait_callbacks is not None:
        parse_duration(options.wait_callbacks)
        _store(options, folder)
    elif options.listen_port is not None:
        raise UsageError("--listen-port needs --wait-callbacks DURATION: give the time to wait")


def wait_for_callbacks(
    options: WaitOptions, folder: "RunFolder", *, is_over: "Callable[[Summary], bool] | None" = None
) -> "Summary":
    """Reconcile a run until every device is confirmed or failed, or until the time of its options is over.

    `is_over` says what else ends the wait.
    """
    from batchlic.callbacks.store import Store
    from batchlic.chunker import DeviceStatus
    from batchlic.runs.reconcile import follow, has_reports

    print_notice(f"Waiting up to {options.wait_callbacks} for callbacks.")
    with closing(Store.open(_store(options, folder))) as store:
        patience = parse_duration(options.wait_callbacks or "0")
        summary = follow(folder, store, patience=patience, is_over=is_over)
    if summary.statuses.get(DeviceStatus.ACCEPTED) and not has_reports(folder):
        print_notice(_silence(options, folder, summary.statuses[DeviceStatus.ACCEPTED]))
    _print_open_ends(folder.path)
    return summary


def _silence(options: WaitOptions, folder: "RunFolder", accepted: int) -> str:
    """That no callback about the run came, and why that may be."""
    devices = f"{counted(accepted, 'device')} {'is' if accepted == 1 else 'are'}"
    own = "" if options.listen_port is None else ", and can the carrier reach its address and port"
    return (
        f"No callback about this run came within {options.wait_callbacks}: {devices} accepted, and not "
        f"confirmed. Is a listener registered for the account (batchlic callbacks list){own}? "
        f"If callbacks come later: batchlic reconcile {folder.argument}"
    )


def _store(options: WaitOptions, folder: "RunFolder") -> str:
    """The store of callbacks; by default, the listener of a run has its store in the run folder."""
    from batchlic.objectstore.copies import is_copy
    from batchlic.settings import load_settings

    settings = load_settings()
    if options.store is None and settings.known_callback_store is None and options.listen_port is not None:
        if is_copy(folder.path):
            raise UsageError(
                f"--listen-port: {folder.path} is in an object store, where callbacks can't be kept: name a "
                "PostgreSQL database with --store or BATCHLIC_LISTENER_STORE"
            )
        return str(folder.path / "callbacks.db")
    return settings.callback_store(options.store)


def _print_open_ends(run_dir: Path) -> None:
    """Print how many devices no callback has settled, and how many callbacks could not be judged."""
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.reconcile import unconfirmed
    from batchlic.writer.callback_outcomes import count_undecided, read_reports, unjudged_messages

    folder = RunFolder(run_dir)
    devices = unconfirmed(folder)
    if devices.height:
        shown = ", ".join(imei or iccid for imei, iccid in devices.head(UNCONFIRMED_SHOWN).iter_rows())
        accepted = f"{counted(devices.height, 'accepted device')} {'is' if devices.height == 1 else 'are'}"
        print_notice(
            f"{accepted} unconfirmed, and the carrier does not call back again: "
            f"{shown}{', …' if devices.height > UNCONFIRMED_SHOWN else ''}"
        )
    reports = read_reports(folder.outcomes)
    if undecided := count_undecided(reports):
        figures = ", ".join(f"{count:,} {reported}" for reported, count in undecided.items())
        print_notice(f"Devices with neither success nor failure: {figures}")
    if unjudged := unjudged_messages(reports):
        messages = counted(len(unjudged), "message")
        print_notice(f"{messages} could not be judged: see batchlic status {folder.argument}")


def _ask_carrier(question: "Callable[[Carrier], Awaitable[T]]", *, on_sandbox: bool = False) -> "T":
    """The carrier's answer to one question."""
    from functools import partial

    from batchlic.carrier.client import open_client
    from batchlic.job import EmbeddedSandbox

    async def ask(target: "Target") -> "T":
        async with open_client(target.base_url, target.credentials) as client:
            await client.login()
            answer = await question(client)
            await client.logout()
            return answer

    with open_target(EmbeddedSandbox() if on_sandbox else None) as target:
        return signals.run_in_loop(partial(signals.unless_asked, partial(ask, target)))
