"""The parts of pages that are made from the code. A page names them: `<!-- made: KIND ARGUMENT -->`."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from textwrap import dedent
from typing import Any, Literal, get_args, get_origin

import griffe
import polars as pl
import typer.main
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

import batchlic
from batchlic import job, settings
from batchlic.chunker.schema import OTHER_PLAN_COLUMNS, PLAN_COLUMNS, REJECT_COLUMNS
from batchlic.cli.app import app
from batchlic.cli.help import name_of, remarks_on
from batchlic.errors import ExitCode
from batchlic.profiles import IN_ENVIRONMENT, PROFILE, PROFILES_FILE
from batchlic.reader.streaming import Column
from batchlic.writer.audit import AUDIT_COLUMNS
from batchlic.writer.callback_outcomes import OUTCOME_COLUMNS
from batchlic.writer.device_states import RESULT_COLUMNS
from batchlic.writer.summary import Summary
from docs.builder.pages import ROOT, title_of

COLUMNS: Mapping[str, Mapping[str, Column]] = {
    "results.parquet": RESULT_COLUMNS,
    "rejects.parquet": REJECT_COLUMNS,
    "audit.parquet": AUDIT_COLUMNS,
    "outcomes.parquet": OUTCOME_COLUMNS,
    "plan.parquet": PLAN_COLUMNS | OTHER_PLAN_COLUMNS,
}


def _tables(field: FieldInfo) -> list[type[BaseModel]]:
    """The table of a job file that a field is, perhaps optionally; none for a key."""
    types = (field.annotation, *get_args(field.annotation))
    return [each for each in types if isinstance(each, type) and issubclass(each, BaseModel)]


TABLES: Mapping[str, type[BaseModel]] = {
    "top": job.Job,
    **{name: table for name, field in job.Job.model_fields.items() for table in _tables(field)},
}
"""The tables of a job file. `top` has the keys before the first one."""

MORE_ON_KEYS = {
    "action": "../how-to/sync.md",
    "allow_empty": "inventories.md#guards",
    "allow_new": "../explanation/ledger.md#a-new-ledger",
    "download_timeout": "inventories.md#addresses",
    "file": "../how-to/monitoring.md",
    "files": "inventories.md#addresses",
    "format_profile": "inventories.md#known-exports",
    "headroom": "../explanation/limiter.md#headroom",
    "heartbeat": "../how-to/notifications.md#the-heartbeat",
    "keep": "../how-to/keep.md",
    "max_change": "inventories.md#guards",
    "min_rows": "inventories.md#guards",
    "query": "../how-to/databases.md",
    "require_confirmation": "../how-to/callbacks.md",
    "required": "../how-to/review.md#approval",
    "restore": "../how-to/migrate.md#which-license-first",
    "write": "../how-to/report.md",
}
"""Where a key of a job file is explained further."""

MORE_ON_SETTINGS = {
    "heartbeat_url": "../how-to/notifications.md#the-heartbeat",
    "listener_allowed_sources": "../how-to/callbacks.md",
    "listener_store": "../how-to/callbacks.md",
    "notify_urls": "../how-to/notifications.md",
    "serve_token": "../how-to/pages.md#access",
    "state_dir": "jobs.md#the-state-folder",
}

_KINDS = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text", SecretStr: "secret"}
_CHECKED = {
    "as_percentage": "percentage",
    "as_removals": "number or percentage",
    "as_canary": "number or percentage",
}
"""What a text is that these functions check."""

_NONE = re.compile(r"[;.] None: (.*?)\.?$", re.DOTALL)


def exit_codes(_: str) -> str:
    """The exit codes, each with what it means."""
    meanings = _docstrings(ExitCode, [code.name for code in ExitCode])
    rows = [(f"`{code.value}`", code.name.lower(), meanings[code.name]) for code in ExitCode]
    return _table(("exit", "name", "meaning"), rows)


def keys(table: str) -> str:
    """The keys of a table of a job file."""
    model = TABLES[table]
    fields = {key: field for key, field in model.model_fields.items() if not _tables(field)}
    meanings = _docstrings(model, fields)
    rows = [_field_row(key, field, meanings[key], MORE_ON_KEYS.get(key)) for key, field in fields.items()]
    return _table(("key", "meaning"), rows)


def settings_table(_: str) -> str:
    """The settings: variables of the environment, or lines of a file."""
    meanings = _docstrings(settings.Settings, settings.Settings.model_fields)
    rows = [
        _field_row(f"{settings.PREFIX}{name.upper()}", field, meanings[name], MORE_ON_SETTINGS.get(name))
        for name, field in settings.Settings.model_fields.items()
    ]
    profiles, notifications = _more("../how-to/profiles.md"), _more("../how-to/notifications.md")
    rows += [
        _row(settings.CREDENTIALS_FILE, "path", "File of settings in the format of `.env`."),
        _row(PROFILE, "text", f"Profile to use, as with `--profile`{profiles}."),
        _row(
            PROFILES_FILE, "path", f"File of the profiles, instead of the user's `profiles.toml`{profiles}."
        ),
        _row(f"{IN_ENVIRONMENT}NAME__SETTING", "text", f"A setting of a profile{profiles}."),
        _row("BATCHLIC_NOTIFY_URL_NAME", "secret", f"URLs for messages that a job names{notifications}."),
        _row("BATCHLIC_HEARTBEAT_URL_NAME", "secret", f"URL of a heartbeat that a job names{notifications}."),
    ]
    return _table(("setting", "meaning"), rows)


def columns(file: str) -> str:
    """The columns of a parquet file of a run."""
    rows = [(f"`{name}`", _dtype(column.dtype), column.meaning) for name, column in COLUMNS[file].items()]
    return _table(("column", "type", "meaning"), rows)


def summary(_: str) -> str:
    """The fields of summary.json."""
    meanings = _docstrings(Summary, Summary.__struct_fields__)
    return _table(("field", "meaning"), [(f"`{name}`", meanings[name]) for name in Summary.__struct_fields__])


def command_line(_: str) -> str:
    """Every command of the command line, in the groups of its help."""
    root = typer.main.get_command(app)
    groups: dict[str, list[str]] = {}
    for names, command in commands(root):
        groups.setdefault(_panel(root.commands[names[0]]), []).append(_command(root, names, command))  # type: ignore[attr-defined]
    if len(groups) == 1:
        return "\n\n".join(text for texts in groups.values() for text in texts)
    return "\n\n".join(f"## {group}\n\n" + "\n\n".join(texts) for group, texts in groups.items())


def commands(group: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:  # noqa: ANN401 - private to typer
    """Each command that a user can run, with the words that name it."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if not hasattr(command, "commands") or command.invoke_without_command:
            yield (*above, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*above, name))


def _command(root: Any, names: Sequence[str], command: Any) -> str:  # noqa: ANN401 - as above
    context = _context(root, names)
    parts = [
        f"### batchlic {' '.join(names)}",
        _linked(_plain(command.help or "")),
        f"```text\n{command.get_usage(context)}\n```",
    ]
    if command.epilog:
        lines = dedent("\n".join(command.epilog.replace("\b", "").strip().splitlines()[1:]))
        parts.append(f"```shell\n{re.sub('^batchlic', '$ batchlic', lines, flags=re.MULTILINE)}\n```")
    options: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        if parameter.name != "help" and not parameter.hidden:
            explained = " ".join([parameter.help or "", *remarks_on(parameter, context)])
            options.setdefault(_panel(parameter), []).append(
                (f"`{name_of(parameter, context)}`", _linked(_escaped(explained)))
            )
    for panel, rows in options.items():
        parts.append(_table((panel, "meaning"), rows))
    return "\n\n".join(part for part in parts if part)


def _context(command: Any, names: Sequence[str]) -> Any:  # noqa: ANN401 - as above
    context = typer.Context(command, info_name="batchlic")
    for name in names:
        command = command.commands[name]
        context = typer.Context(command, info_name=name, parent=context)
    return context


def _panel(owner: Any) -> str:  # noqa: ANN401 - a command or an option, whose classes are private to typer
    panel = getattr(owner, "rich_help_panel", None)
    return str(panel) if isinstance(panel, str) else "Arguments and options"


def _docstrings(owner: type, names: Iterable[str]) -> dict[str, str]:
    """What the docstrings below these attributes of a class say, in one line each.

    Raises LookupError for an attribute without one.
    """
    file = Path(inspect.getfile(owner))
    members = griffe.visit(owner.__module__, filepath=file, code=file.read_text())[owner.__name__].members
    found = {}
    for name in names:
        if members[name].docstring is None:
            raise LookupError(
                f"{owner.__module__}.{owner.__name__}.{name} needs a docstring, for the reference"
            )
        found[name] = " ".join(members[name].docstring.value.split())
    return found


def _field_row(name: str, field: FieldInfo, text: str, more: str | None) -> tuple[str, str]:
    without = _NONE.search(text)
    if field.is_required():
        default = " Required."
    elif without is not None:
        default = f" Default: {without[1]}."
    else:
        value = field.get_default(call_default_factory=True)
        default = f" Default: {_value(value)}." if value not in (None, [], {}) else ""
    meaning = _NONE.sub("", text).removesuffix(".")
    return _row(name, _kind(field), f"{meaning}{_more(more) if more else ''}.{default}")


def _row(name: str, kind: str, meaning: str) -> tuple[str, str]:
    return f"`{name}`<br>{kind}", meaning


def _value(value: object) -> str:
    match value:
        case bool():
            return f"`{str(value).lower()}`"
        case Enum():
            return f"`{value.value}`"
        case list():
            return ", ".join(map(_value, value))
        case float() if value.is_integer():
            return f"`{value:.0f}`"
    return f"`{value}`"


def _kind(field: FieldInfo) -> str:
    """The type of a field, in words."""
    checks = [getattr(check, "func", None) for check in field.metadata]
    checks += [
        getattr(check, "func", None) for inner in get_args(field.annotation) for check in get_args(inner)[1:]
    ]
    for check in checks:
        if check is not None and check.__name__ in _CHECKED:
            return _CHECKED[check.__name__]
    return _named(field.annotation) + _range(field)


def _named(annotation: Any) -> str:  # noqa: ANN401 - any type
    inner = [each for each in get_args(annotation) if each is not type(None)]
    origin = get_origin(annotation)
    if annotation in _KINDS:
        return _KINDS[annotation]
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in inner)
    if origin is list:
        return f"list of {_named(inner[0])}".replace("whole number", "whole numbers").replace("text", "texts")
    if origin is dict:
        return "table"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{each.value}`" for each in annotation)
    return _named(inner[0])  # optional, or with checks


def _range(field: FieldInfo) -> str:
    low = next((check.ge for check in field.metadata if hasattr(check, "ge")), None)
    high = next((check.le for check in field.metadata if hasattr(check, "le")), None)
    above = next((check.gt for check in field.metadata if hasattr(check, "gt")), None)
    if low is not None and high is not None:
        return f", {low} to {high:,}"
    if low is not None:
        return f", from {low}"
    return f", above {above}" if above is not None else ""


def _dtype(dtype: pl.DataType) -> str:
    if isinstance(dtype, pl.Datetime):
        return "datetime, UTC"
    return {"UInt": "u", "Int": "i", "Float": "f"}.get(
        kind := str(dtype).rstrip("0123456789"), kind.lower()
    ) + str(dtype)[len(kind) :]


def _more(link: str) -> str:
    """A link to a page, with its title."""
    path = (ROOT / "docs" / "reference" / link.partition("#")[0]).resolve()
    return f" ([{title_of(path.relative_to(ROOT).as_posix())}]({link}))"


def _linked(text: str) -> str:
    """The text with each page that it names as a link."""
    return re.sub(
        r"docs/(?:([a-z-]+)/)([a-z]+\.md)",
        lambda found: f"[{title_of(found[0])}](../{found[1]}/{found[2]})",
        text,
    )


def _plain(text: str) -> str:
    paragraphs = re.split(r"\n\s*\n", text.replace("\b", ""))
    return "\n\n".join(_escaped(" ".join(paragraph.split())) for paragraph in paragraphs)


def _escaped(text: str) -> str:
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if index % 2 else re.sub(r"([\\*_<>\[\]])", r"\\\1", part) for index, part in enumerate(parts)
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_without_bars, line))} |" for line in lines)


def _without_bars(cell: str) -> str:
    """The cell with bars that don't end it. In code, they never do."""
    return "".join(
        part if index % 2 else part.replace("|", "\\|")
        for index, part in enumerate(re.split(r"(`[^`]*`)", cell))
    )


def api(_: str) -> str:
    """The public names of the package, by kind, for mkdocstrings."""
    kinds: dict[str, list[str]] = {"Functions": [], "Classes": [], "Errors": [], "Types": []}
    for name in getattr(batchlic, "__all__", ()):
        value = getattr(batchlic, name)
        if inspect.isfunction(value):
            kinds["Functions"].append(name)
        elif isinstance(value, type):
            kinds["Errors" if issubclass(value, Exception) else "Classes"].append(name)
        elif not name.startswith("__"):
            kinds["Types"].append(name)
    return "\n\n".join(
        f"## {kind}\n\n" + "\n\n".join(f"::: batchlic.{name}" for name in names)
        for kind, names in kinds.items()
        if names
    )


MADE: Mapping[str, Callable[[str], str]] = {
    "api": api,
    "columns": columns,
    "command-line": command_line,
    "exit-codes": exit_codes,
    "keys": keys,
    "settings": settings_table,
    "summary": summary,
}
