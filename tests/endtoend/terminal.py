"""Runs the program on a terminal of its own, and types answers."""

import os
import pty
import select
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.endtoend.program import PATIENCE, environment_of
from tests.forking import Program


@dataclass(frozen=True)
class Screen:
    """Exit code, and all that was shown."""

    code: int
    text: str


def on_terminal(
    *arguments: str | Path, typing: Mapping[str, str], settings: Mapping[str, str], cwd: Path
) -> Screen:
    """Run `batchlic` on a terminal. `typing` has the lines to type, each by a part of its question.

    Each line is typed once, when its question is on the screen.
    """
    outer, inner = pty.openpty()
    environment = {"TERM": "dumb", "COLUMNS": "1000", **environment_of(settings, cwd)}
    text, left, deadline = "", dict(typing), time.monotonic() + PATIENCE
    with Program(list(map(str, arguments)), environment, cwd, terminal=os.ttyname(inner)) as process:
        try:
            while chunk := _read(outer, deadline):
                if not text:  # the program has opened the terminal, and is to be the only one
                    os.close(inner)
                text += chunk
                for question in [question for question in left if question in text]:
                    os.write(outer, left.pop(question).encode() + b"\n")
            process.communicate(PATIENCE)
        finally:
            process.kill()
            os.close(outer)
    assert process.returncode is not None
    return Screen(process.returncode, text)


def _read(terminal: int, deadline: float) -> str:
    """What is shown next; empty at the end."""
    ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
    assert ready, f"nothing more on the screen within {PATIENCE:.0f} s"
    with suppress(OSError):  # the program has ended
        return os.read(terminal, 4096).decode(errors="replace")
    return ""
