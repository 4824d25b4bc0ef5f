"""Attaches notifications and heartbeat to a run, and sends a test message."""

import re
import shlex
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from batchlic.cli.arguments import JobFile
from batchlic.cli.help import Section, examples
from batchlic.cli.options import Json
from batchlic.cli.output import print_json
from batchlic.errors import BatchlicError, ExitCode, UsageError

if TYPE_CHECKING:
    from batchlic.events import EventStream
    from batchlic.job import Job, Notify
    from batchlic.monitoring.alerts.heartbeat import Heartbeat
    from batchlic.monitoring.alerts.message import Origin
    from batchlic.monitoring.alerts.notifier import Notifier
    from batchlic.settings import Settings

app = typer.Typer()

_PASSWORD = re.compile(r"(://[^/@:]*:).*(?=@)|(password=)[^&]*", re.IGNORECASE)
"""A password in a URL, before the host or as a parameter."""

PATIENCE_S = 30.0
"""Seconds to wait for the targets of a test message."""


@app.command(
    "notify-test",
    rich_help_panel=Section.PREPARE,
    epilog=examples("batchlic notify-test nightly.toml"),
)
def notify_test(job: JobFile, *, json: Json = False) -> None:
    """Send a test message to the targets of a job's notifications.

    The heartbeat gets no ping, because its service would count it. Exit 3: a target did not accept the
    message.
    """
    from functools import partial
    from time import monotonic

    from batchlic.job import load_job
    from batchlic.monitoring.alerts.bounded import all_within
    from batchlic.monitoring.alerts.message import Message
    from batchlic.monitoring.alerts.services import Service, services_of
    from batchlic.settings import load_settings

    loaded = load_job(job, {})
    if loaded.notify is None:
        raise UsageError(f"{job}: the job has no [notify]")
    settings = load_settings()
    settings.heartbeat(loaded.notify.heartbeat)
    services = services_of(settings.notify_targets(loaded.notify.to))
    if not services:
        raise UsageError("there is no URL to send to: set BATCHLIC_NOTIFY_URLS")
    name = loaded.name or loaded.action
    message = Message(
        f"{name}: test",
        f"This is a test message of batchlic on {socket.gethostname()}.\nNothing is wrong.",
        "success",
    )
    durations: dict[str, float] = {}

    def send(service: Service) -> str | None:
        began = monotonic()
        problem = service.send(message)
        durations[service.label] = monotonic() - began
        return problem

    problems = all_within(PATIENCE_S, [partial(send, service) for service in services])
    results = [
        {
            "target": service.label,
            "service": service.name,
            "seconds": durations.get(service.label),
            "problem": problem,
        }
        for service, problem in zip(services, problems, strict=True)
    ]
    if json:
        print_json(results)
    else:
        for service, problem in zip(services, problems, strict=True):
            sys.stdout.write(f"{service}: {_outcome(problem, durations.get(service.label, 0.0))}\n")
    sys.exit(ExitCode.INCOMPLETE if any(problems) else ExitCode.OK)


def _outcome(problem: str | None, seconds: float) -> str:
    from batchlic.monitoring.alerts.bounded import TOLD_WITHIN_S

    if problem is not None:
        return f"not sent: {problem}"
    slow = f", but the end of a run waits only {TOLD_WITHIN_S:.1f} s" if seconds > TOLD_WITHIN_S else ""
    return f"sent in {seconds:.1f} s{slow}"


@contextmanager
def alerts(
    events: "EventStream",
    job: "Job | None",
    run_dir: Path | None,
    *,
    is_wanted: bool | None,
    on_sandbox: bool,
) -> Iterator[Callable[[], None]]:
    """Send the messages and pings of a job's [notify] about the run in the block.

    Yields a function that raises UsageError if the job's [notify] can't be used. The run calls it first, so
    that the targets that work get a message about that error, too. `is_wanted`: --notify or --no-notify;
    None: on a carrier only. `job` is None if it is not known. `run_dir` is the run folder that the operator
    named.
    """
    observers, wrong = _observers(job, run_dir, is_wanted=is_wanted, on_sandbox=on_sandbox)

    def check() -> None:
        if wrong is not None:
            raise wrong

    try:
        with ExitStack() as stack:
            for observer in observers:
                stack.enter_context(events.attached(type(observer).__name__.lower(), observer))
            yield check
    finally:
        for observer in observers:
            events.problems += observer.problems
            if observer.started is not None:
                _log(Path(observer.started.folder), observer.started.run_id, observer.problems)


def _observers(
    job: "Job | None", run_dir: Path | None, *, is_wanted: bool | None, on_sandbox: bool
) -> "tuple[list[Heartbeat | Notifier], BatchlicError | None]":
    """The observers that the job wants, and the first thing that is wrong with its [notify]."""
    from batchlic.settings import load_settings

    if job is None:
        return [], None
    if (notify := job.notify) is None:
        return [], UsageError("--notify: the job has no [notify]") if is_wanted else None
    if not (is_wanted if is_wanted is not None else not on_sandbox):
        return [], None
    try:
        settings = load_settings()
    except BatchlicError as error:
        return [], error
    origin = _origin(job, settings, on_sandbox=on_sandbox)
    observers: list[Heartbeat | Notifier] = []
    wrong: BatchlicError | None = None
    for build in (_heartbeat, _notifier):
        try:
            observer = build(job, notify, settings, origin, run_dir)
        except BatchlicError as error:
            wrong = wrong or error
        else:
            observers += [observer] if observer is not None else []
    if not observers and wrong is None and not on_sandbox:
        wrong = UsageError(
            "the job has a [notify], but no URL is set: set BATCHLIC_NOTIFY_URLS or "
            "BATCHLIC_HEARTBEAT_URL, or give --no-notify"
        )
    return observers, wrong


def _origin(job: "Job", settings: "Settings", *, on_sandbox: bool) -> "Origin":
    from batchlic.monitoring.alerts.message import Origin

    return Origin(
        job=job.name or job.action,
        host=socket.gethostname(),
        command=_command_line(),
        secrets=settings.secrets(),
        is_rehearsal=on_sandbox,
    )


def _command_line() -> str:
    """This command, as it can be pasted on this host once passwords in URLs are filled in (promise F)."""
    from batchlic.logs import REDACTED

    arguments = [_PASSWORD.sub(rf"\g<1>\g<2>{REDACTED}", argument) for argument in sys.argv[1:]]
    command = shlex.join(["batchlic", *arguments])
    with suppress(OSError):
        return f"cd {shlex.quote(str(Path.cwd()))} && {command}"
    return command


def _heartbeat(
    _job: "Job", notify: "Notify", settings: "Settings", origin: "Origin", _run_dir: Path | None
) -> "Heartbeat | None":
    url = settings.heartbeat(notify.heartbeat)
    if url is None or origin.is_rehearsal:  # a rehearsal must not hide that the job itself does not run
        return None
    from batchlic.monitoring.alerts.heartbeat import Heartbeat

    return Heartbeat(url, notify.heartbeat_ok, origin)


def _notifier(
    job: "Job", notify: "Notify", settings: "Settings", origin: "Origin", run_dir: Path | None
) -> "Notifier | None":
    targets = settings.notify_targets(notify.to)
    if not targets:
        return None
    from batchlic.monitoring.alerts.notifier import Notifier, Policy
    from batchlic.monitoring.alerts.services import services_of
    from batchlic.monitoring.alerts.troubles import Kind

    policy = Policy(on=[Kind(kind) for kind in notify.on], max_rejects=job.limits.max_rejects)
    memory = None if origin.is_rehearsal else _memory(origin.job, run_dir)
    return Notifier(services_of(targets), policy, origin, memory)


def _memory(job: str, run_dir: Path | None) -> Path | None:
    """The file with the last messages about a job: beside the ledger, if that place is known."""
    from batchlic.monitoring.alerts.memory import FOLDER
    from batchlic.state import ledger_file

    with suppress(BatchlicError):
        return ledger_file(run_dir).with_name(FOLDER) / f"{job}.json"
    return None


def _log(folder: Path, run_id: str, problems: Sequence[str]) -> None:
    """Add problems to the log of a run, which is closed already."""
    from io import StringIO

    from batchlic.logs import RunLog

    log = folder / "run.log"
    with suppress(OSError, BatchlicError):
        if problems and log.is_file():
            with RunLog(log, secrets=(), people=StringIO()) as opened:
                for problem in problems:
                    opened.logger(run_id=run_id).warning(problem)
