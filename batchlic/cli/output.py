"""What every door has: the carrier that it leads to, and how it answers."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from batchlic.logs import printable_lines

if TYPE_CHECKING:
    from batchlic.job import Rehearsal
    from batchlic.runs.target import Target
    from batchlic.writer.summary import Summary


@contextmanager
def carrier(rehearsal: "Rehearsal | None") -> Iterator["Target"]:
    """The carrier of the settings, or a sandbox for as long as the block lasts."""
    from batchlic.runs.target import Target

    if rehearsal is None:
        from batchlic.settings import load_settings

        settings = load_settings()
        yield Target(settings.base_url, settings.base_url, settings.credentials(), tuple(settings.secrets()))
        return
    from batchlic.carrier.auth import Credentials, Secret
    from batchlic.journal import SANDBOX
    from batchlic.sandbox.config import SandboxConfig
    from batchlic.sandbox.embedded import embedded

    name = Secret("sandbox")
    credentials = Credentials(client_id=name, client_secret=name, username=name, password=name)
    config = SandboxConfig(
        rate=rehearsal.rate,
        burst=rehearsal.burst,
        latency_s=rehearsal.latency,
        seed=rehearsal.seed,
        callback_delay_s=rehearsal.callback_delay,
        callback_jitter_s=rehearsal.callback_delay,
        callback_failures=rehearsal.callback_failures,
    )
    with embedded(config) as base_url:
        yield Target(SANDBOX, base_url, credentials, ())


def finish(summary: "Summary", folder: Path, *, as_json: bool) -> None:
    """Print a summary, and exit as its run did."""
    print_summary(summary, folder, as_json=as_json)
    sys.exit(summary.exit_code)


def print_summary(summary: "Summary", folder: Path, *, as_json: bool) -> None:
    """Print a summary, for a person or as JSON."""
    from batchlic.cli.format import describe

    if as_json:
        put(summary)
    else:
        say(describe(summary, folder))


def put(result: object) -> None:
    """Print a result as JSON, to stdout."""
    import msgspec

    with may_be_cut_short():
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n")


@contextmanager
def may_be_cut_short() -> Iterator[None]:
    """Write to stdout for as long as somebody reads it (`| head`): the exit code is another matter."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and f"(os error {errno.EPIPE})" not in str(error):  # polars
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """Print what a person reads, to stderr."""
    sys.stderr.write(printable_lines(text) + "\n")
