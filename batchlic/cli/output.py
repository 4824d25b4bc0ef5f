"""Helpers that commands share: the carrier to talk to, questions, and output to people and programs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from batchlic.cli.colors import paint
from batchlic.cli.verbosity import QUIET, verbosity
from batchlic.errors import Declined, ExitCode, RefusedToStart
from batchlic.runs import signals
from batchlic.targets import open_target as open_target  # noqa: PLC0414 - commands import it from here

if TYPE_CHECKING:
    from batchlic.runs.asking import Ask
    from batchlic.runs.status import StatusReport
    from batchlic.writer.summary import Summary


def exit_as(summary: "Summary", folder: Path, *, as_json: bool) -> None:
    """Print a summary, and exit with the code of its run."""
    print_summary(summary, folder, as_json=as_json)
    sys.exit(summary.exit_code)


def print_summary(summary: "Summary", folder: Path, *, as_json: bool) -> None:
    """Print a summary to stdout, for people or as JSON."""
    from batchlic.cli.format import describe

    if as_json:
        print_json(summary)
    else:
        print_under_headline(describe(summary, folder), _style_of(summary))


def print_under_headline(text: str, style: str) -> None:
    """Print a result whose first line says it all, in a style of Rich, to stdout."""
    from batchlic.logs import printable_lines

    headline, *others = printable_lines(text).split("\n")
    sys.stdout.write("\n".join([paint(headline, style, sys.stdout), *others]) + "\n")


def print_status(report: "StatusReport", folder: Path) -> None:
    """Print the state of a run for people to stdout."""
    from batchlic.cli.format import describe_status

    print_under_headline(describe_status(report, folder), _style_of(report))


def _style_of(summary: "Summary") -> str:
    if summary.exit_code is None:
        return "bold"
    return {ExitCode.OK: "bold green", ExitCode.INCOMPLETE: "bold yellow"}.get(
        ExitCode(summary.exit_code), "bold red"
    )


def print_json(result: object) -> None:
    """Print a result as JSON to stdout."""
    import msgspec

    from batchlic.aliases import shown

    sys.stdout.flush()
    text = msgspec.json.format(msgspec.json.encode(result), indent=2).decode()
    sys.stdout.buffer.write(shown(text).encode() + b"\n")
    sys.stdout.buffer.flush()


def print_result(text: str) -> None:
    """Print what a command was asked for, for people, to stdout."""
    from batchlic.logs import printable_lines

    sys.stdout.write(printable_lines(text) + "\n")


def print_notice(text: str) -> None:
    """Print to stderr what is good to know, unless the command is quiet."""
    from batchlic.logs import printable_lines

    if verbosity() != QUIET:
        sys.stderr.write(printable_lines(text) + "\n")


def print_before_question(text: str) -> None:
    """Print to stderr what the next question is about."""
    from batchlic.logs import printable_lines

    sys.stderr.write(printable_lines(text) + "\n")


def print_warning(text: str) -> None:
    """Print to stderr what an operator should look at."""
    from batchlic.logs import printable_lines

    sys.stderr.write(f"{paint('warning:', 'yellow', sys.stderr)} {printable_lines(text)}\n")


def print_error(text: str) -> None:
    """Print to stderr why a command ends."""
    from batchlic.logs import printable_lines

    sys.stderr.write(f"{paint('batchlic:', 'bold red', sys.stderr)} {printable_lines(text)}\n")


def ask_on_terminal() -> "Ask | None":
    """A function that asks for confirmation and raises Declined on a no; None without a terminal."""
    return _confirm if sys.stdin.isatty() else None


def ask_or_refuse(options: str) -> "Ask":
    """A function that asks on a terminal. Without a terminal, it refuses, and names the `options` to give."""

    def refuse(question: str, *, typed: str | None = None) -> None:  # noqa: ARG001 - as Ask
        raise RefusedToStart(
            f"{question} There is no terminal to ask on: give {options}. Nothing was changed"
        )

    return ask_on_terminal() or refuse


def _confirm(question: str, *, typed: str | None = None) -> None:
    from batchlic.logs import printable

    try:
        if typed is None:
            is_confirmed = typer.confirm(printable(question), err=True)
        else:
            answer = typer.prompt(f"{printable(question)} Type {typed} to go on", err=True)
            is_confirmed = answer.strip() == typed
    except typer.Abort:
        signals.raise_if_asked()
        is_confirmed = False  # the end of the input
    if not is_confirmed:
        given = "you answered no" if typed is None else f"you did not type {typed}"
        raise Declined(f"{given}: nothing was sent or changed")
