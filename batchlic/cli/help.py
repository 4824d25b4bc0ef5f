"""Help pages: commands and options in groups, types that people read, examples, and no line cut off.

Typer's own pages by Rich take too long: with them, `--help` would not be shown within 0.3 s.
"""

import inspect
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from batchlic.cli.colors import paint

WIDEST = 100
"""Most characters of a line; fewer if the terminal is narrower."""
_LONGEST_NAME = 26
"""Characters of the left column. What is longer has its explanation below."""


class Section(StrEnum):
    """The groups of commands, in the order of `batchlic --help`."""

    PREPARE = "Prepare"
    SUBMIT = "Submit"
    INSPECT = "Inspect"
    RECOVER = "Recover"
    CALLBACKS = "Callbacks"
    REHEARSE = "Rehearse"


class Panel(StrEnum):
    """The groups of options, in the order of a help page; options without a group come first."""

    LICENSE = "License"
    INVENTORY = "Inventory"
    GUARDS = "Guards"
    SYNC = "Sync"
    CANARY = "Canary"
    LIMITS = "Limits"
    CLUSTER = "Workers"
    LEDGER = "Ledger"
    APPROVAL = "Approval"
    CALLBACKS = "Callbacks"
    SERVER = "Server"
    TIMES = "Times"
    ACCOUNTS = "Accounts and licenses"
    MONITORING = "Monitoring"
    OUTPUT = "Output"


_ARGUMENTS, _OPTIONS = "Arguments", "Options"
PANELS = (_ARGUMENTS, _OPTIONS, *Panel)
_LONGEST_EXAMPLE = 76
"""Characters of a line of examples: longer ones go on in the next line."""


def examples(*lines: str) -> str:
    """The end of a help page: command lines to try, with comments (`# …`) above them."""
    folded = (part for line in lines for part in _folded(line))
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in folded)])


def _folded(line: str) -> list[str]:
    at = line.rfind(" --", 0, _LONGEST_EXAMPLE - 1)
    if len(line) <= _LONGEST_EXAMPLE or at < 0:
        return [line]
    return [f"{line[:at]} \\", *_folded(f"    {line[at + 1 :]}")]


def commands_of(epilog: str | None) -> list[str]:
    """The command lines among `examples`."""
    joined = re.sub(r" \\\n +", " ", epilog or "")
    return re.findall(r"^  (batchlic .*)$", joined, re.MULTILINE)


class _Explained:
    """What commands and groups have in common: their help pages, and errors that suggest an option."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - the classes are private to typer
        """Write the help page."""
        formatter.write(_page(self, ctx, formatter.width))

    def format_usage(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - as above
        """Write the first line of the help page, which errors show, too."""
        formatter.write(f"{_usage(self, ctx, formatter.width)}\n")

    def get_short_help_str(self, limit: int = 0) -> str:  # noqa: ARG002 - that of Typer cuts sentences off
        """The first sentence of the help text, for shells that show it beside a completion."""
        return first_sentence(getattr(self, "help", None))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - as above
        """Parse the arguments, and suggest an option for one that does not exist."""
        try:
            parsed: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
        except Exception as error:
            if possibilities := getattr(error, "possibilities", None):
                vars(error).update(possibilities=None, message=f"{error}. Did you mean {possibilities[0]}?")
            raise
        return parsed


class Command(_Explained, TyperCommand):
    """A command whose help page is one of these."""


class Group(_Explained, TyperGroup):
    """A group of commands whose help page is one of these."""


def name_of(param: Any, ctx: Any) -> str:  # noqa: ANN401 - as above
    """An argument or option as in its help: `RUN_DIR`, `-y, --yes`, `--max-rate REQUESTS`."""
    if isinstance(param, TyperArgument):
        return f"{param.metavar or param.display_name_raw.upper()}{'...' if param.nargs != 1 else ''}"
    names = ", ".join(sorted(param.opts, key=len))
    others = f" / {', '.join(param.secondary_opts)}" if param.secondary_opts else ""
    return f"{names}{others} {value_of(param, ctx)}".rstrip()


def value_of(param: Any, ctx: Any) -> str:  # noqa: ANN401 - as above
    """What an option takes, as in its help: `SECONDS`, `auto|imei`; empty for a flag."""
    if isinstance(param, TyperOption) and (param.is_flag or param.count):
        return ""
    return str(param.metavar or param.display_type(ctx)).strip("<>")


def remarks_on(param: Any, ctx: Any) -> list[str]:  # noqa: ANN401 - as above
    """What Typer knows of a parameter: its variable, its default, its range, and whether it is required."""
    remarks = []
    if param.show_envvar and param.envvar:
        names = [param.envvar] if isinstance(param.envvar, str) else param.envvar
        remarks.append(f"env: {', '.join(names)}")
    if default := _default_of(param, ctx):
        remarks.append(f"default: {default}")
    if limits := _range_of(param):
        remarks.append(limits)
    if param.required:
        remarks.append("required")
    return [f"[{remark}]" for remark in remarks]


def panel_of(param: Any) -> str:  # noqa: ANN401 - as above
    """The group of an argument or option in its help page."""
    return str(param.rich_help_panel or (_ARGUMENTS if isinstance(param, TyperArgument) else _OPTIONS))


def in_order(titles: Iterable[str], order: Sequence[str]) -> list[str]:
    """Titles of groups in this order, which is that of help pages: `Section` or `PANELS`."""
    return sorted(titles, key=lambda title: order.index(title) if title in order else len(order))


def first_sentence(text: str | None) -> str:
    """The first sentence of a help text, on one line."""
    paragraph = " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0]


def _default_of(param: Any, ctx: Any) -> str:  # noqa: ANN401 - as above
    if isinstance(param.show_default, str):
        return param.show_default
    value = param.get_default(ctx, call=False)
    if value is None or not param.show_default or isinstance(value, bool):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _range_of(param: Any) -> str:  # noqa: ANN401 - as above
    if param.max is not None:
        return f"{param.min or 0:g} to {param.max:g}"
    return f"at least {param.min:g}" if param.min and not param.count else ""


def _page(command: Any, ctx: Any, width: int) -> str:  # noqa: ANN401 - as above
    blocks = [_usage(command, ctx, width), _text(command.help or "", width)]
    arguments, options = defaultdict(list), defaultdict(list)
    for param in command.get_params(ctx):
        if not param.hidden and isinstance(param, TyperArgument):
            arguments[_ARGUMENTS].append((name_of(param, ctx), _explained(param, ctx)))
        elif not param.hidden:
            panel = panel_of(param)
            options[panel].append((name_of(param, ctx), _explained(param, ctx)))
    commands = defaultdict(list)
    if isinstance(command, TyperGroup):
        for name in command.list_commands(ctx):
            found = command.commands[name]
            if not found.hidden:
                section = str(getattr(found, "rich_help_panel", None) or "Commands")
                commands[section].append((name, first_sentence(found.help)))
    for tables, order in ((commands, [*Section]), (arguments, PANELS), (options, PANELS)):
        column = min(
            _LONGEST_NAME, max((len(name) for rows in tables.values() for name, _ in rows), default=0)
        )
        blocks += [_table(title, tables[title], column, width) for title in in_order(tables, order)]
    blocks.append(_examples(command.epilog or ""))
    return "\n\n".join(filter(None, blocks)) + "\n"


def _usage(command: Any, ctx: Any, width: int) -> str:  # noqa: ANN401 - as above
    start = f"Usage: {ctx.command_path} "
    pieces = (piece.replace("{", "").replace("}", "") for piece in command.collect_usage_pieces(ctx))
    lines = _wrapped(" ".join(pieces), width - len(start))
    return _heading("Usage:") + start[6:] + f"\n{' ' * len(start)}".join(lines)


def _text(text: str, width: int) -> str:
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(
        "\n".join(f"  {line}" for line in _wrapped(" ".join(paragraph.split()), width - 2))
        for paragraph in paragraphs
    )


def _explained(param: Any, ctx: Any) -> str:  # noqa: ANN401 - as above
    # A short remark is one word for the line breaks; its spaces come back when it is in its line.
    remarks = (
        remark.replace(" ", _STUCK) if len(remark) <= _LONGEST_WORD else remark
        for remark in remarks_on(param, ctx)
    )
    return " ".join(filter(None, (param.help, *remarks)))


_LONGEST_WORD = 32
_STUCK = "\N{NO-BREAK SPACE}"


def _table(title: str, rows: Iterable[tuple[str, str]], column: int, width: int) -> str:
    lines = [_heading(f"{title}:")]
    for name, explanation in rows:
        below = _wrapped(explanation, width - column - 4) or [""]
        painted = paint(name, "cyan", sys.stdout)
        if len(name) > column:
            lines.append(f"  {painted}")
        else:
            lines.append(f"  {painted}{' ' * (column - len(name))}  {below.pop(0)}".rstrip())
        lines += [f"{' ' * (column + 4)}{line}" for line in below]
    return "\n".join(lines)


def _examples(epilog: str) -> str:
    lines = epilog.removeprefix("\b\n").split("\n")
    return "\n".join([_heading(lines[0]), *lines[1:]]) if epilog else ""


def _heading(text: str) -> str:
    return paint(text, "bold", sys.stdout)


def _wrapped(text: str, width: int) -> list[str]:
    """The lines of a text. Paths and options are kept whole."""
    lines = textwrap.wrap(text, max(width, 20), break_long_words=False, break_on_hyphens=False)
    return [line.replace(_STUCK, " ") for line in lines]
