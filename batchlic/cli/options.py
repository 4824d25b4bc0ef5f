"""The options that commands share, each declared once and flattened into the commands that take it."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from batchlic.errors import UsageError

ROLES = ("imei", "iccid", "account", "sku")
FlagValues = dict[str, dict[str, Any]]
"""What flags say, by table and key of a job file; None where a flag was not given."""

Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, even on a terminal.")]
OnSandbox = Annotated[
    bool, typer.Option("--sandbox", help="Start a sandbox carrier on loopback and run against it.")
]

StoreLocation = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="PATH_OR_URL",
        help="Where callbacks are kept: an SQLite file, or postgresql://… [BATCHLIC_LISTENER_STORE].",
    ),
]


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """How to read the inventories, which license goes where, and where the files go."""

    account: Annotated[str | None, typer.Option(help="Account of rows that name none.")] = None
    sku: Annotated[str | None, typer.Option(help="SKU of rows that name none.")] = None
    id_kind: Annotated[
        Literal["auto", "imei", "iccid", "both"] | None,
        typer.Option(help="Identifiers to send [auto: whatever the row has, IMEI first]."),
    ] = None
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=HEADER",
            help="Which column holds imei, iccid, account or sku, by header or position. Repeatable.",
        ),
    ] = None
    sheet: Annotated[str | None, typer.Option(help="Sheet of a workbook [the first].")] = None
    accept_imeisv: Annotated[
        bool, typer.Option("--accept-imeisv", help="Take a 16-digit IMEISV as the IMEI that it holds.")
    ] = False
    no_check_digit: Annotated[
        bool, typer.Option("--no-check-digit", help="Take identifiers whose check digit is wrong.")
    ] = False
    batch_size: Annotated[int | None, typer.Option(min=1, max=100, help="Devices a request [100].")] = None
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the run [runs/ and the run's id].")] = None
    ledger: Annotated[
        Path | None, typer.Option(help="Record of earlier runs [ledger.db beside the run's folder].")
    ] = None
    no_ledger: Annotated[
        bool,
        typer.Option("--no-ledger", help="Neither skip what earlier runs licensed, nor record this one."),
    ] = False
    json: Json = False

    def overrides(self) -> FlagValues:
        """What the flags say, by table and key of a job file."""
        return {
            "inventory": {
                "id_kind": self.id_kind,
                "columns": self._columns(),
                "sheet": self.sheet,
                "accept_imeisv": self.accept_imeisv or None,
                "check_digit": False if self.no_check_digit else None,
            },
            "license": {"account": self.account, "sku": self.sku},
            "limits": {"batch_size": self.batch_size},
            "ledger": {
                "path": str(self.ledger) if self.ledger else None,
                "use": False if self.no_ledger else None,
            },
        }

    def _columns(self) -> dict[str, str] | None:
        columns = {}
        for given in self.column or []:
            role, _, header = given.partition("=")
            if role.lower() not in ROLES or not header:
                raise UsageError(f"--column {given}: give NAME=HEADER, with NAME one of {', '.join(ROLES)}")
            columns[role.lower()] = header
        return columns or None


@dataclass(frozen=True, kw_only=True)
class RunOptions(PlanOptions):
    """The same for what is submitted: how much at once, how long, and how much may be wrong."""

    max_concurrency: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Requests in flight at most [64].")
    ] = None
    max_rate: Annotated[
        float | None, typer.Option(min=0.001, help="Requests a second at most [what the carrier allows].")
    ] = None
    give_up_after: Annotated[
        float | None, typer.Option(min=1, help="Stop after so many seconds without progress [1800].")
    ] = None
    max_rejects: Annotated[
        int | None, typer.Option(min=0, help="Rejected rows that do not spoil exit code 0 [0].")
    ] = None
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Where licenses are too few, license as many as fit.")
    ] = False
    wait_callbacks: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Wait so long for outcomes after sending: 90s, 30m, 2h."),
    ] = None
    store: StoreLocation = None
    listen_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Wait with a listener of its own, on this port; 0: a free one."),
    ] = None
    listen_host: Annotated[str, typer.Option(help="Address of that listener.")] = "127.0.0.1"
    consent_lifetime: Annotated[
        bool, typer.Option("--consent-lifetime", help="Yes to licenses that can never be taken back.")
    ] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Plan, say what would be sent, and leave nothing.")
    ] = False
    yes: Yes = False
    sandbox: OnSandbox = False

    def overrides(self) -> FlagValues:
        """What the flags say, by table and key of a job file."""
        tables = super().overrides()
        tables["license"]["consent_lifetime"] = self.consent_lifetime or None
        tables["limits"] |= {
            "max_concurrency": self.max_concurrency,
            "max_rate": self.max_rate,
            "give_up_after": self.give_up_after,
            "max_rejects": self.max_rejects,
            "allow_partial": self.allow_partial or None,
        }
        return tables


def parse_duration(text: str) -> float:
    """`90s`, `30m`, `2h` or plain seconds, in seconds. Raises UsageError."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise UsageError(f"{text!r} is no duration: give seconds, or 90s, 30m, 2h")
    return float(found[1]) * _SECONDS[found[2]]


_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def flattened(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of the group that is its parameter `options`, so that Typer sees them."""
    hints = get_type_hints(command, include_extras=True)
    group: type[PlanOptions] = hints["options"]
    own = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "options"
    ]
    inner = get_type_hints(group, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, annotation=inner[field.name], default=field.default
        )
        for field in fields(group)
    ]

    @wraps(command)
    def flat(**given: Any) -> None:  # noqa: ANN401 - whatever Typer has parsed
        options = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given, options=options)

    flat.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
    return flat
