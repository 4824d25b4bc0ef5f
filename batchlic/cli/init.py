"""`batchlic init` writes a job file by asking what a job needs. Each question has an option."""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from batchlic.cli.completion import complete_skus
from batchlic.cli.help import Panel, Section, examples
from batchlic.cli.options import parse_columns
from batchlic.cli.output import print_before_question, print_error, print_result
from batchlic.errors import BatchlicError, Declined, RefusedToStart, UsageError
from batchlic.runs import signals

if TYPE_CHECKING:
    from batchlic.runs.inventory_columns import ColumnsFound

T = TypeVar("T")

app = typer.Typer()

SCHEMA_FILE = "batchlic-job.schema.json"
"""The name that the schema of job files has beside them."""
_ACTIONS = ("assign", "unassign", "migrate", "sync")


@app.command(
    rich_help_panel=Section.PREPARE,
    epilog=examples(
        "# Answer questions:",
        "batchlic init nightly.toml",
        "# In a script:",
        "batchlic init nightly.toml --action assign --inventory fleet.csv --account 0000123456-00001 "
        "--sku SIMSec-IoT --yes",
    ),
)
def init(
    path: Annotated[Path, typer.Argument(metavar="JOB.toml", help="Job file to write.")] = Path("job.toml"),
    *,
    action: Annotated[
        Literal["assign", "unassign", "migrate", "sync"] | None,
        typer.Option(help="What to do with the licenses.", show_default="asked; with --yes, assign"),
    ] = None,
    inventory: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INVENTORY",
            help="File, folder or address that lists the devices. Repeatable.",
            rich_help_panel=Panel.INVENTORY,
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=COLUMN",
            help="Column of imei, iccid, account or sku. Repeatable.",
            show_default="found by its header",
            rich_help_panel=Panel.INVENTORY,
        ),
    ] = None,
    max_rejects: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="ROWS",
            help="Rejected rows tolerated before exit code 3.",
            show_default="asked; with --yes, 0",
            rich_help_panel=Panel.INVENTORY,
        ),
    ] = None,
    account: Annotated[
        str | None,
        typer.Option(
            metavar="ACCOUNT", help="Default account for rows without one.", rich_help_panel=Panel.LICENSE
        ),
    ] = None,
    sku: Annotated[
        str | None,
        typer.Option(
            metavar="SKU",
            help="Default SKU for rows without one.",
            autocompletion=complete_skus,
            rich_help_panel=Panel.LICENSE,
        ),
    ] = None,
    from_sku: Annotated[
        str | None,
        typer.Option(
            metavar="SKU",
            help="For migrate: SKU that the devices have now.",
            autocompletion=complete_skus,
            rich_help_panel=Panel.LICENSE,
        ),
    ] = None,
    to_sku: Annotated[
        str | None,
        typer.Option(
            metavar="SKU",
            help="For migrate: SKU that the devices get.",
            autocompletion=complete_skus,
            rich_help_panel=Panel.LICENSE,
        ),
    ] = None,
    consent_lifetime: Annotated[
        bool,
        typer.Option(
            "--consent-lifetime",
            help="Allow Lifetime licenses (irrevocable).",
            rich_help_panel=Panel.LICENSE,
        ),
    ] = False,
    max_removals: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICES|PERCENT",
            help="For sync: most devices that lose their license.",
            show_default="asked; with --yes, 1%",
            rich_help_panel=Panel.LICENSE,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that exists already.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing, and take the defaults.")] = False,
) -> None:
    """Write a job file with comments, by asking what to do with which devices.

    Without a terminal, give the answers as options. The inventories are opened to see whether batchlic
    recognizes their columns.
    """
    interview = _Interview(can_ask=sys.stdin.isatty() and not yes, takes_defaults=yes)
    interview.refuse_to_replace(path, is_confirmed=overwrite)
    chosen = interview.value(
        "--action", "What to do (assign, unassign, migrate, sync)", action, _action, "assign"
    )
    columns = parse_columns(column or [])
    found: list[ColumnsFound] = []

    def look(text: str) -> list[str]:
        files = inventory or [text]
        found[:] = _columns_found(files, columns)
        return files

    files = interview.value(
        "--inventory", "File that lists the devices", " ".join(inventory) if inventory else None, look
    )
    license = interview.license(
        chosen or "assign",
        {"account": account, "sku": sku, "from_sku": from_sku, "to_sku": to_sku},
        found,
        consent=consent_lifetime,
    )
    rejects = interview.value(
        "--max-rejects",
        "Rejected rows to tolerate before exit code 3",
        None if max_rejects is None else str(max_rejects),
        _count,
        "0",
    )
    removals = None
    if chosen == "sync":
        removals = interview.value(
            "--max-removals", "Most devices that lose their license", max_removals, _removals, "1%"
        )
    interview.refuse_if_incomplete()
    job = {
        "action": chosen,
        "files": files,
        "columns": columns,
        "license": license,
        "max_rejects": rejects,
        "max_removals": removals,
    }
    _write(path, _job_file(path, job))
    print_result(_report(path, job, found))


class _Interview:
    """Takes each value from its option, asks for it, or takes its default."""

    def __init__(self, *, can_ask: bool, takes_defaults: bool) -> None:
        self._can_ask = can_ask
        self._takes_defaults = takes_defaults
        self._missing: list[str] = []

    def value(
        self,
        option: str,
        question: str,
        given: str | None,
        check: Callable[[str], T],
        default: str | None = None,
    ) -> T | None:
        """The checked value; None, and a note of the option, if nobody can be asked.

        `check` raises UsageError. Raises it, too, if the option itself is wrong.
        """
        if given is not None:
            try:
                return check(given)
            except UsageError as error:
                raise UsageError(f"{option}: {error}") from None
        if self._can_ask:
            return self._asked(question, check, default)
        if self._takes_defaults and default is not None:
            return check(default)
        self._missing.append(option)
        return None

    def license(
        self,
        action: str,
        given: Mapping[str, str | None],
        found: Sequence["ColumnsFound"],
        *,
        consent: bool,
    ) -> dict[str, Any]:
        """The table `license` of the job. What each inventory has a column for is not asked."""
        table: dict[str, Any] = {}
        if given["account"] or not _all_have("account", found):
            table["account"] = self.value(
                "--account", "Account of the devices", given["account"], _account, _default_account()
            )
        has_column = _all_have("sku", found) and action != "migrate"
        if self._can_ask and not has_column and not (given["sku"] or given["to_sku"]):
            print_before_question(_known_skus())
        if action == "migrate":
            table["from_sku"] = self.value(
                "--from-sku", "SKU that the devices have now", given["from_sku"], _removable_sku
            )
            assigned = table["to_sku"] = self.value(
                "--to-sku", "SKU that the devices get", given["to_sku"], _sku
            )
        elif given["sku"] or not has_column:
            check = _removable_sku if action == "unassign" else _sku
            assigned = table["sku"] = self.value("--sku", "SKU of the devices", given["sku"], check)
        else:
            assigned = None
        if consent or (action != "unassign" and _is_lifetime(assigned)):
            table["consent_lifetime"] = consent or self._confirms(
                f"{assigned} is a Lifetime license, which can't be taken back. Allow it?"
            )
        return table

    def refuse_to_replace(self, path: Path, *, is_confirmed: bool) -> None:
        """Raise RefusedToStart if there is such a file already, and nobody says that it may go."""
        if is_confirmed or not os.path.lexists(path):
            return
        if not self._can_ask:
            raise RefusedToStart(f"{path} exists already: give another path, or --overwrite")
        if not self._confirms(f"{path} exists already. Replace it?"):
            raise Declined("you answered no: nothing was written")

    def refuse_if_incomplete(self) -> None:
        """Raise UsageError that names the options without which there is no job."""
        if self._missing:
            options = " and ".join(filter(None, (", ".join(self._missing[:-1]), self._missing[-1])))
            reason = "" if self._takes_defaults else "there is no terminal to ask on: "
            raise UsageError(f"init: {reason}give {options}")

    def _asked(self, question: str, check: Callable[[str], T], default: str | None) -> T:
        while True:
            try:
                return check(_prompt(typer.prompt, question, default=default))
            except UsageError as error:
                print_error(str(error))

    def _confirms(self, question: str) -> bool:
        return self._can_ask and bool(_prompt(typer.confirm, question, default=False))


def _prompt(ask: Callable[..., Any], question: str, *, default: object) -> Any:  # noqa: ANN401 - text or bool
    """The answer to a question on the terminal. Raises Declined at the end of the input."""
    from batchlic.logs import printable

    try:
        return ask(printable(question), default=default, err=True)
    except typer.Abort:
        signals.raise_if_asked()
        raise Declined("there are no more answers: nothing was written") from None


# -- checks ---------------------------------------------------------------------------------------------


def _action(text: str) -> str:
    if text not in _ACTIONS:
        raise UsageError(f"{text!r} is no action: give {', '.join(_ACTIONS[:-1])} or {_ACTIONS[-1]}")
    return text


def _columns_found(files: list[str], columns: Mapping[str, str]) -> "list[ColumnsFound]":
    from batchlic.job import make_job
    from batchlic.runs.inventory_columns import columns_of

    content = {"action": "assign", "inventory": {"files": files, "columns": columns}}
    return columns_of(make_job(content, {}, where="inventory"))


def _account(text: str) -> str:
    from batchlic.job import AccountName

    return _valid(AccountName, text.strip())


def _sku(text: str) -> str:
    from batchlic.carrier.catalog import SKUS
    from batchlic.job import suggestion

    if text not in SKUS:
        raise UsageError(
            f"unknown SKU {text}{suggestion(text, SKUS)}. A SKU of your contract alone goes into "
            "[license.other_skus] of the job file"
        )
    return text


def _removable_sku(text: str) -> str:
    if _is_lifetime(_sku(text)):
        raise UsageError(f"{text}: Lifetime licenses can't be unassigned")
    return text


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len("999999999")):
        raise UsageError(f"{text!r} is no number of rows: give one such as 100")
    return int(text)


def _removals(text: str) -> str:
    from batchlic.job import MostRemovals

    return _valid(MostRemovals, text)


def _valid(kind: Any, text: str) -> str:  # noqa: ANN401 - an annotated type
    """The text as a value of a job file. Raises UsageError."""
    from pydantic import TypeAdapter, ValidationError

    from batchlic.job import what_is_wrong

    try:
        return str(TypeAdapter(kind).validate_python(text))
    except ValidationError as error:
        raise UsageError(what_is_wrong(error.errors()[0])) from None


def _known_skus() -> str:
    from batchlic.carrier.catalog import SKUS

    width = max(map(len, SKUS))
    return "\n".join(["SKUs:", *(f"  {sku:{width}}  {kind}" for sku, kind in SKUS.items())])


def _is_lifetime(sku: str | None) -> bool:
    from batchlic.carrier.catalog import SKUS, LicenseType

    return sku is not None and SKUS[sku] is LicenseType.LIFETIME


def _default_account() -> str | None:
    """The account of the settings, which may be wrong: a run reports that."""
    from batchlic.settings import load_settings

    try:
        return load_settings().account
    except BatchlicError:
        return None


def _all_have(role: str, found: "Sequence[ColumnsFound]") -> bool:
    return bool(found) and all(role in inventory for inventory in found)


# -- the file -------------------------------------------------------------------------------------------


def _name_of(path: Path) -> str:
    """The name of the job: that of its file, without what a name can't have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:64] or "job"


def _from_job(path: Path, file: str) -> str:
    """The name of an inventory as the job file has it: from its own folder."""
    if "://" in file or file == "-" or Path(file).is_absolute():
        return file
    return os.path.relpath(file, path.parent)


def _text(value: object) -> str:
    """A value in TOML. Strings of JSON are strings of TOML, apart from the character DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", r"\u007f")


def _job_file(path: Path, job: Mapping[str, Any]) -> str:
    """The text of the job file: what was answered, and as comments what else is often wanted."""
    license = dict(job["license"])
    consent = license.pop("consent_lifetime", None)
    directive = f"#:schema ./{SCHEMA_FILE}"
    has_schema = (path.parent / SCHEMA_FILE).is_file()
    lines = [
        *([directive] if has_schema else []),
        "# A job of batchlic, by batchlic init. An unknown key is an error that suggests the right one.",
    ]
    if not has_schema:
        lines += [
            f"# Editors complete and check this file after: batchlic schema > {SCHEMA_FILE}",
            f"# and with this first line: {directive}",
        ]
    lines += [
        f"name = {_text(_name_of(path))}",
        f"action = {_text(job['action'])}",
        "",
        "[inventory]",
        "# Paths start at the folder of this file.",
        f"files = {_text([_from_job(path, file) for file in job['files']])}",
        '# keep = ["site"]          # columns to keep in results and rejects',
        "# min_rows = 20_000         # with fewer rows, nothing is sent: exit code 4",
        '# max_change = "20%"        # the same if the number of rows changes more from run to run',
    ]
    if job["columns"]:
        lines += ["", "[inventory.columns]"]
        lines += [f"{role} = {_text(header)}" for role, header in job["columns"].items()]
    else:
        lines += ['# columns = { imei = "Device IMEI" }    # for headers that batchlic does not recognize']
    lines += ["", "[license]", *(f"{key} = {_text(value)}" for key, value in license.items() if value)]
    if consent is not None:
        lines.append(f"consent_lifetime = {_text(consent)}    # Lifetime licenses can't be taken back")
    lines += [
        "",
        "[limits]",
        f"max_rejects = {job['max_rejects']}             # rejected rows tolerated before exit code 3",
        "# max_rate = 20             # requests per second; by default, as many as the carrier allows",
        '# headroom = "20%"          # share of the carrier\'s limit to leave to others with the same login',
    ]
    if job["max_removals"] is not None:
        lines += [
            "",
            "[sync]",
            f"max_removals = {_text(job['max_removals'])}       # most devices that lose their license",
        ]
    elif job["action"] in {"assign", "unassign"}:
        lines += ["", "# [canary]                  # devices to send before all others", '# devices = "1%"']
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    """Write the file, if it is a job. Raises UsageError if not, and if it can't be written there."""
    import tomllib

    from batchlic.atomic import replacing
    from batchlic.job import make_job

    make_job(tomllib.loads(text), {}, where=str(path))
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist; make it, or give another path")
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _report(path: Path, job: Mapping[str, Any], found: "Sequence[ColumnsFound]") -> str:
    """What was written, what was seen in the inventories, and what to do next."""
    lines = [f"Wrote {path}: {job['action']} {', '.join(job['files'])}"]
    for inventory in found:
        columns = ", ".join(
            f"{role} in {header!r}" if header else role for role, header in inventory.headers.items()
        )
        lines.append(f"  {inventory.name}: {columns or 'no rows yet'}")
        lines += [f"  note: {note}" for note in inventory.notes]
    lines += [
        "Next:",
        f"  batchlic check {path} --sandbox    # can the inventories be planned?",
        f"  batchlic run {path} --sandbox      # rehearse without the carrier",
        f"  batchlic check {path}              # with your credentials",
        f"  batchlic run {path}                # for real",
    ]
    return "\n".join(lines)
