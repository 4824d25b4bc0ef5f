"""A sandbox in a process of its own, for as long as somebody needs it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

import msgspec

from batchlic.sandbox.config import SandboxConfig
from batchlic.sandbox.listening import base_url, listen


@contextmanager
def embedded(config: SandboxConfig) -> Iterator[str]:
    """Start a sandbox on a free loopback port and give its base URL; it ends with the block.

    It can be called at once: the socket listens already, and calls wait until the process has come up. It is
    in a session of its own, so Ctrl-C on the terminal does not reach it, and it dies with this process.
    """
    listener = listen("127.0.0.1", 0)
    with listener:
        url = base_url(listener)
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "batchlic.sandbox.server", str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    with process:
        stdin = cast("IO[bytes]", process.stdin)
        stdin.write(msgspec.json.encode(config) + b"\n")
        stdin.flush()
        try:
            yield url
        finally:
            process.kill()  # it has nothing to save
