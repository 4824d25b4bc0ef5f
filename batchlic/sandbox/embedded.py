"""Runs a sandbox as a child process."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

import msgspec

from batchlic.sandbox.config import SandboxConfig
from batchlic.sandbox.sockets import base_url, listen


@contextmanager
def embedded(config: SandboxConfig) -> Iterator[str]:
    """Run a sandbox on a free loopback port for the length of the block; yield its base URL.

    Requests can be sent at once: the socket already listens, and they wait until the child process is ready.
    The child has its own session, so Ctrl-C on the terminal does not reach it. It ends with this process.
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
            process.kill()  # a sandbox has nothing to save
