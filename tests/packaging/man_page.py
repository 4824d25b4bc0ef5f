"""Writes the man page batchlic(1) from the live commands: `make man`."""

import re
import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any

from typer.main import get_command

from batchlic.cli.app import app
from batchlic.cli.help import name_of, remarks_on
from batchlic.errors import ExitCode
from batchlic.profiles import PROFILE
from batchlic.settings import CREDENTIALS_FILE, PREFIX, Settings
from tests.packaging.release import Release, released

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "man" / "batchlic.1"

EXIT_STATUS = {
    ExitCode.OK: "Every planned device was accepted, confirmed or skipped, and no more rows were rejected "
    "than --max-rejects allows.",
    ExitCode.BUG: "A bug: an unexpected error.",
    ExitCode.USAGE: "The arguments, the job file, the settings or an inventory are wrong.",
    ExitCode.INCOMPLETE: "The run finished, but devices failed or are in doubt, or rows were rejected.",
    ExitCode.REFUSED: "Nothing was sent, because a condition for the run does not hold.",
    ExitCode.CREDENTIALS: "The carrier rejected the credentials.",
    ExitCode.STOPPED: 'The run stopped early. "batchlic resume" continues it.',
}
FILES = {
    "plan.parquet, rejects.parquet": "The devices to send, and the rows that can't be sent, with reasons.",
    "results.parquet, audit.parquet": "The status of each device, and what was sent and answered.",
    "summary.json, report.html, run.log": "Figures for programs, a report for people, and the log.",
    "journal.db": "The durable record of the run. Do not delete it while devices are in doubt.",
}
EXAMPLES = {
    "Try it without a carrier:": "batchlic assign fleet.csv --account 0000123456-00001 --sku SIMSec-IoT \\\n"
    "    --sandbox",
    "Run a job file, and continue the run if it stops:": "batchlic run job.toml\nbatchlic resume RUN_DIR",
    "List the rows that a person must check:": "batchlic export RUN_DIR --what rejects --to rejects.csv",
}


def man_page(release: Release) -> str:
    """The page in the man(7) format: each command with its arguments and options, as its help says them."""
    commands = list(_commands(get_command(app), "batchlic"))
    lines = [
        f'.TH BATCHLIC 1 {release.date} "batchlic {release.version}" "User Commands"',
        ".SH NAME",
        r"batchlic \- assign, unassign and migrate SIM-Secure licenses of IoT devices",
        ".SH SYNOPSIS",
        ".B batchlic",
        r".I command",
        r"[\fIoptions\fR]",
        ".SH DESCRIPTION",
        *_paragraphs(commands[0][1].help),
        ".PP",
        r"Each command explains itself: \fBbatchlic\fR \fIcommand\fR \fB\-\-help\fR.",
        ".SH OPTIONS",
        *_parameters(*commands[0]),
        ".SH COMMANDS",
    ]
    for path, command in commands[1:]:
        lines += [f".SS {_escaped(path)}", *_paragraphs(command.help), *_parameters(path, command)]
    lines += [".SH ENVIRONMENT", *_environment()]
    lines += [".SH FILES", "A run has a folder, which --run-dir or the state folder decides:"]
    lines += [line for name, text in FILES.items() for line in _entry(name, text)]
    lines += [".SH EXIT STATUS"]
    lines += [line for code in ExitCode for line in _entry(str(code.value), EXIT_STATUS[code])]
    lines += [".SH EXAMPLES"]
    for number, (text, example) in enumerate(EXAMPLES.items()):
        lines += [
            *([".PP"] if number else []),
            _escaped(text),
            ".PP",
            ".RS 4",
            ".nf",
            *map(_escaped, example.splitlines()),
            ".fi",
            ".RE",
        ]
    return "\n".join(lines) + "\n"


def _environment() -> list[str]:
    names = sorted(f"{PREFIX}{name.upper()}" for name in Settings.model_fields)
    return [
        "Settings come from the environment, or from a file .env in the current directory:",
        ", ".join([*names, CREDENTIALS_FILE, PROFILE]) + ".",
    ]


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - a class private to typer
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from _commands(child, f"{path} {name}")


def _parameters(path: str, command: Any) -> Iterator[str]:  # noqa: ANN401 - as above
    """Arguments and options, each with the text of its help."""
    context = command.context_class(command, info_name=path, **command.context_settings)
    for parameter in command.get_params(context):
        if not parameter.hidden and ("--help" not in parameter.opts or command.name == "batchlic"):
            text = " ".join([parameter.help or "", *remarks_on(parameter, context)])
            yield from _entry(name_of(parameter, context), text)


def _entry(term: str, text: str) -> list[str]:
    return [".TP", rf"\fB{_escaped(' '.join(term.split()))}\fR", _escaped(" ".join(text.split()))]


def _paragraphs(text: str | None) -> list[str]:
    """Paragraphs of a docstring; click marks those with \\b as lines that stay as they are."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", cleandoc(text or "")):
        if paragraph.startswith("\b"):
            lines += [".PP", ".nf", *map(_escaped, paragraph.lstrip("\b\n").splitlines()), ".fi"]
        else:
            lines += [".PP", _escaped(" ".join(paragraph.split()))]
    return lines[1:]  # the first follows a heading


def _escaped(text: str) -> str:
    """Text that roff takes as it is: no line of it is a request, and hyphens can be copied."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("`", "").replace("'", r"\(aq")
    escaped = "".join(one if one.isascii() else rf"\[u{ord(one):04X}]" for one in escaped)
    return rf"\&{escaped}" if escaped.startswith((".", r"\(aq")) else escaped


if __name__ == "__main__":
    PAGE.write_text(man_page(released(ROOT)), encoding="utf-8")
    sys.stdout.write(f"{PAGE.relative_to(ROOT)}\n")
