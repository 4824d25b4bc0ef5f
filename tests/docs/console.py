"""Runs a page: its commands, files and Python snippets, in order, in a folder of their own.

A block with the language `console` has commands, each after `$ `, and perhaps what they print. `batchlic
sandbox` starts a carrier on a free port, until the next one or the end of the page. A block with a `title` is
a file that the reader writes. A block with the language `python` is a program. Other blocks do not run.

`python -m tests.docs.console PAGE…` writes what the commands print into pages.
"""

import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.endtoend.program import REPOSITORY, begin, end, environment_of
from tests.forking import Program

BLOCK = re.compile(r'^( *)```([a-z]+)(?: title="([^"]+)")?\n(.*?)^ *```$', re.DOTALL | re.MULTILINE)
"""Indentation, language, title and content of a block."""

PORT: Final = "8641"
"""The port of the sandbox as the pages have it."""

_FOR_SHELLS = {"|", "<", ">", "2>", "&", "&&", "||", "--install-completion"}
"""Words that only a shell understands, and an option that is about the shell."""

_BATCHLIC = f'batchlic() {{ {shlex.quote(sys.executable)} -m batchlic "$@"; }}'
"""The command, for a shell."""

_PORT = re.compile(rf"(?<=127\.0\.0\.1:){PORT}")

_CHANGING = (
    (re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}"), "RUN"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z?"), "TIME"),
    (re.compile(r"\b[0-9a-f]{40,64}\b"), "HASH"),
    (re.compile(r"[\d,.]+(?= +devices per second)"), "N"),
    (re.compile(r"\b\d+:\d\d\b"), "DURATION"),
    (re.compile(r"\b[\d.,]+ (?:ms|s|seconds|MB|GB|TB)\b"), "N UNIT"),
    (re.compile(r"[\d,.]+(?= requests per second)"), "N"),
    (re.compile(r"\b1-\d{30}\b|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "ID"),
    (re.compile(r"─+"), "─"),
    (re.compile(r"-{3,}"), "---"),
    (re.compile(r"[ \t]+"), " "),
)
"""What differs from run to run."""


@dataclass(frozen=True)
class Command:
    """A command of a console block, and the lines that the page has below it."""

    line: str
    output: str


def commands(block: str) -> list[Command]:
    """The commands of a console block."""
    found = re.split(r"^\$ ", block.replace("\\\n    ", ""), flags=re.MULTILINE)
    return [Command(*_first_line(part)) for part in found[1:]]


def _first_line(text: str) -> tuple[str, str]:
    line, _, rest = text.partition("\n")
    return line, rest


def unchanging(text: str) -> str:
    """The text without what differs from run to run."""
    for pattern, name in _CHANGING:
        text = pattern.sub(name, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@dataclass
class World:
    """The folder in which a page is tried, with the sandbox that it has started."""

    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    replacements: Mapping[str, str] = field(default_factory=dict)
    """What stands for names that only the readers' machines have."""
    exit_codes: list[tuple[str, int]] = field(default_factory=list)
    log: str = ""
    _sandbox: Program | None = None
    _port: str | None = None
    _texts: dict[str, str] = field(default_factory=dict)

    def play(self, page: str) -> str:
        """Try all blocks of a page. The page, with what its commands have printed."""
        return BLOCK.sub(self._block, page)

    def close(self) -> None:
        """Stop the sandbox."""
        if self._sandbox is not None:
            self._sandbox.send_signal(signal.SIGTERM)
            end(self._sandbox)
            self._sandbox = None

    def _block(self, found: re.Match[str]) -> str:
        indent, language, title, content = found.groups()
        if title is not None:
            self._texts[title] = content
            self._write(title)
        elif language == "console":
            content = "".join(f"$ {one.line}\n{self.run(one.line)}" for one in commands(content))
        elif language == "python":
            self._shell(shlex.join([sys.executable, "-c", content]))
        else:
            return found[0]
        head = f"```{language}" + (f' title="{title}"' if title else "")
        return f"{indent}{head}\n{content}{indent}```"

    def run(self, line: str) -> str:
        """What a command prints, on both streams."""
        for name, stands_for in self.replacements.items():
            line = line.replace(name, stands_for)
        words = shlex.split(line)
        if words[:2] == ["batchlic", "sandbox"]:
            return self._start_sandbox(words[1:])
        if words[:2] == ["echo", "$?"]:
            return f"{self.exit_codes[-1][1]}\n"
        if words[0] == "make":
            return ""  # the targets have tests of their own, and most install packages
        if words[0] == "python":
            return self._shell(shlex.join([sys.executable, *words[1:]]))
        if words[0] != "batchlic" or _FOR_SHELLS & set(words):
            return self._shell(line)
        ended = end(begin(*map(self.with_port, words[1:]), settings=self._environment(), cwd=self.folder))
        self.exit_codes.append((line, ended.code))
        printed = ended.err + ended.out
        self.log += f"$ {line}\n{printed}"
        return self._as_written(printed + ("\n" if printed and not printed.endswith("\n") else ""))

    def _environment(self) -> dict[str, str]:
        """The settings. The home folder is the page's own: a command may write there."""
        settings = {name: self.with_port(value) for name, value in self.settings.items()}
        return {"HOME": str(self.folder), **settings}

    def with_port(self, text: str) -> str:
        """The text with the port on which the sandbox listens."""
        return _PORT.sub(self._port or PORT, text)

    def _shell(self, line: str) -> str:
        done = subprocess.run(
            ["/bin/bash", "-c", f"{_BATCHLIC}\n{self.with_port(line)}"],
            cwd=self.folder,
            env=environment_of(self._environment(), self.folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.exit_codes.append((line, done.returncode))
        self.log += f"$ {line}\n{done.stdout}"
        return done.stdout

    def _start_sandbox(self, words: Sequence[str]) -> str:
        self.close()
        arguments = re.sub(rf"--port {PORT}", f"--port {self._port or 0}", shlex.join(words))
        self._sandbox = begin(*shlex.split(arguments), settings=self._environment(), cwd=self.folder)
        printed = self._sandbox.stdout.readline()
        self._port = printed.rpartition(":")[2].partition("/")[0]
        for title in self._texts:
            self._write(title)
        return self._as_written(printed)

    def _write(self, title: str) -> None:
        file = self.folder / title
        file.write_text(self.with_port(self._texts[title]))
        if title == ".env":
            file.chmod(0o600)

    def _as_written(self, text: str) -> str:
        text = text.replace(f"127.0.0.1:{self._port}", f"127.0.0.1:{PORT}")
        return text.replace(str(self.folder), "/home/ada/fleet")


def main(pages: Sequence[Path]) -> None:
    """Write what commands print into the pages."""
    for page in pages:
        with tempfile.TemporaryDirectory() as name:
            world = World(Path(name))
            try:
                page.write_text(world.play(page.read_text()))
            finally:
                world.close()
        for line, code in world.exit_codes:
            print(code, line)


if __name__ == "__main__":
    main([REPOSITORY / name for name in sys.argv[1:]])
