"""What commands share: the carrier to talk to, questions, and output to people and programs."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from batchlic.errors import RefusedToStart
from batchlic.logs import printable, printable_lines

if TYPE_CHECKING:
    from batchlic.job import Rehearsal
    from batchlic.runs.target import Target
    from batchlic.writer.summary import Summary


@contextmanager
def open_target(rehearsal: "Rehearsal | None") -> Iterator["Target"]:
    """The carrier of the settings, or a sandbox that lives as long as the block."""
    from batchlic.runs.target import Target

    if rehearsal is None:
        from batchlic.settings import load_settings

        settings = load_settings()
        yield Target(settings.base_url, settings.base_url, settings.credentials(), tuple(settings.secrets()))
        return
    from batchlic.carrier.credentials import Credentials, Secret
    from batchlic.journal import SANDBOX
    from batchlic.sandbox import CallbackConfig, LatencyConfig, LimitConfig, SandboxConfig, embedded

    name = Secret("sandbox")
    credentials = Credentials(client_id=name, client_secret=name, username=name, password=name)
    config = SandboxConfig(
        seed=rehearsal.seed,
        limits=LimitConfig(rate=rehearsal.rate, burst=rehearsal.burst),
        latency=LatencyConfig(base_s=rehearsal.latency),
        callbacks=CallbackConfig(
            delay_s=rehearsal.callback_delay,
            jitter_s=rehearsal.callback_delay,
            failure_share=rehearsal.callback_failures,
        ),
    )
    with embedded(config) as base_url:
        yield Target(SANDBOX, base_url, credentials, ())


def exit_as(summary: "Summary", folder: Path, *, as_json: bool) -> None:
    """Print a summary, and exit with the code of its run."""
    print_summary(summary, folder, as_json=as_json)
    sys.exit(summary.exit_code)


def print_summary(summary: "Summary", folder: Path, *, as_json: bool) -> None:
    """Print a summary, for people to stderr or as JSON to stdout."""
    from batchlic.cli.format import describe

    if as_json:
        print_json(summary)
    else:
        print_message(describe(summary, folder))


def print_json(result: object) -> None:
    """Print a result as JSON to stdout."""
    import msgspec

    with stdout_until_closed():
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n")


@contextmanager
def stdout_until_closed() -> Iterator[None]:
    """Write to stdout while somebody reads it; a closed pipe (`| head`) is no error."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and f"(os error {errno.EPIPE})" not in str(error):  # polars
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_message(text: str) -> None:
    """Print a message for people to stderr."""
    sys.stderr.write(printable_lines(text) + "\n")


def ask_on_terminal() -> Callable[[str], None] | None:
    """Asks for confirmation, and raises RefusedToStart on a no; None where there is no terminal."""
    return _confirm if sys.stdin.isatty() else None


def _confirm(question: str) -> None:
    if not typer.confirm(printable(question), err=True):
        raise RefusedToStart("nothing was sent")
