"""The options that commands share, each declared once: single ones, and groups for whole commands."""

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

import typer
from typer.models import CommandInfo, TyperInfo

from batchlic.cli.arguments import find_new_run_folder, ledger_location
from batchlic.cli.completion import complete_skus
from batchlic.cli.help import Panel
from batchlic.errors import UsageError

if TYPE_CHECKING:
    from batchlic.job import MetricsUse

ROLES = ("imei", "iccid", "account", "sku")
FlagValues = dict[str, dict[str, Any]]
"""Values of options, by table and key of a job file; None if the option was not given."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.", rich_help_panel=Panel.OUTPUT)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Notifying = Annotated[
    bool | None,
    typer.Option(
        "--notify/--no-notify",
        help="Send the notifications that the job asks for.",
        show_default="yes, but not with --sandbox",
        rich_help_panel=Panel.MONITORING,
    ),
]
OnSandbox = Annotated[bool, typer.Option("--sandbox", help="Run against a sandbox carrier on this machine.")]

NewLedger = Annotated[
    bool,
    typer.Option(
        "--new-ledger",
        help="Allow a ledger without records of licenses that are already assigned.",
        rich_help_panel=Panel.LEDGER,
    ),
]

TlsCertificate = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Certificate chain of this server, PEM.")
]
TlsKey = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="Private key, PEM.", show_default="in the file of the certificate"),
]

StoreLocation = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="PATH_OR_URL",
        help="Store of callbacks: an SQLite file, or the URL of a PostgreSQL database.",
        envvar="BATCHLIC_LISTENER_STORE",
        rich_help_panel=Panel.CALLBACKS,
    ),
]


@dataclass(frozen=True, kw_only=True)
class InventoryOptions:
    """How to read the inventories, and which license their devices get."""

    account: Annotated[
        str | None,
        typer.Option(
            metavar="ACCOUNT",
            help="Default account for rows without one.",
            show_default="that of the profile, or BATCHLIC_ACCOUNT",
            rich_help_panel=Panel.LICENSE,
        ),
    ] = None
    sku: Annotated[
        str | None,
        typer.Option(
            metavar="SKU",
            help="Default SKU for rows without one.",
            autocompletion=complete_skus,
            rich_help_panel=Panel.LICENSE,
        ),
    ] = None
    id_kind: Annotated[
        Literal["auto", "imei", "iccid", "both"] | None,
        typer.Option(
            help="Identifiers to send; auto: the one in the row, IMEI first.",
            show_default="auto",
            rich_help_panel=Panel.INVENTORY,
        ),
    ] = None
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=COLUMN",
            help="Column of imei, iccid, account or sku, by header, path (device.imei) or position; - for "
            "none. Repeatable.",
            show_default="found by its header",
            rich_help_panel=Panel.INVENTORY,
        ),
    ] = None
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMNS",
            help="Columns to keep in results, rejects and exports, as text: headers separated by commas, or "
            "NAME=HEADER. Repeatable.",
            rich_help_panel=Panel.INVENTORY,
        ),
    ] = None
    format_profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Read the files as exports of a known platform.",
            show_default="recognized by the headers",
            rich_help_panel=Panel.INVENTORY,
        ),
    ] = None
    sheet: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Sheet of a workbook.",
            show_default="the first visible one",
            rich_help_panel=Panel.INVENTORY,
        ),
    ] = None
    accept_imeisv: Annotated[
        bool,
        typer.Option(
            "--accept-imeisv",
            help="Accept a 16-digit IMEISV, and plan its IMEI.",
            rich_help_panel=Panel.INVENTORY,
        ),
    ] = False
    no_check_digit: Annotated[
        bool,
        typer.Option(
            "--no-check-digit",
            help="Accept identifiers with a wrong check digit.",
            rich_help_panel=Panel.INVENTORY,
        ),
    ] = False
    download_timeout: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="Wait for an answer or data of an inventory's server.",
            show_default="60",
            rich_help_panel=Panel.INVENTORY,
        ),
    ] = None
    query: Annotated[
        str | None,
        typer.Option(
            metavar="SQL",
            help="Query that reads the inventories that are databases.",
            rich_help_panel=Panel.INVENTORY,
        ),
    ] = None

    def values(self) -> FlagValues:
        """The options that were given, by table and key of a job file. Raises UsageError for --column."""
        return {
            "inventory": {
                "download_timeout": self.download_timeout,
                "query": self.query,
                "id_kind": self.id_kind,
                "columns": parse_columns(self.column or []) or None,
                "keep": [column for given in self.keep for column in given.split(",")] if self.keep else None,
                "format_profile": self.format_profile,
                "sheet": self.sheet,
                "accept_imeisv": self.accept_imeisv or None,
                "check_digit": False if self.no_check_digit else None,
            },
            "license": {"account": self.account, "sku": self.sku},
        }


def parse_columns(options: Iterable[str]) -> dict[str, str]:
    """The columns that `--column` names, by role. Raises UsageError."""
    columns = {}
    for given in options:
        role, _, header = given.partition("=")
        if role.lower() not in ROLES or not header:
            raise UsageError(f"--column {given}: give ROLE=COLUMN, with ROLE one of {', '.join(ROLES)}")
        columns[role.lower()] = header
    return columns


@dataclass(frozen=True, kw_only=True)
class GuardOptions:
    """Which inventories are refused before anything is sent."""

    min_rows: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="ROWS",
            help="Minimum number of rows: with fewer, exit code 4.",
            show_default="none",
            rich_help_panel=Panel.GUARDS,
        ),
    ] = None
    max_change: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT",
            help="Maximum change of the number of rows since the job's last run, such as 20%: with more, "
            "exit code 4.",
            show_default="none",
            rich_help_panel=Panel.GUARDS,
        ),
    ] = None
    allow_empty: Annotated[
        bool,
        typer.Option(
            "--allow-empty",
            help="Accept inventories without rows, instead of exit code 2.",
            rich_help_panel=Panel.GUARDS,
        ),
    ] = False

    def values(self) -> dict[str, Any]:
        """The options that were given, by key of a job file's table `inventory`. Raises UsageError."""
        return {
            "min_rows": self.min_rows,
            "max_change": percentage("--max-change", self.max_change),
            "allow_empty": self.allow_empty or None,
        }


def percentage(option: str, given: str | None) -> str | None:
    """The value of an option as a percentage; None if it was not given. Raises UsageError."""
    from batchlic.job import as_percentage

    try:
        return None if given is None else as_percentage(given)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class SyncOptions:
    """What a sync may do."""

    max_removals: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICES|PERCENT",
            help="Most devices that a sync takes licenses from: a number, or a percentage of each account "
            "and SKU.",
            show_default="1%",
            rich_help_panel=Panel.SYNC,
        ),
    ] = None
    no_remove: Annotated[
        bool,
        typer.Option(
            "--no-remove",
            help="Leave the licenses of gone devices as they are.",
            rich_help_panel=Panel.SYNC,
        ),
    ] = False
    no_assign: Annotated[
        bool,
        typer.Option(
            "--no-assign",
            help="Assign no license to devices without one.",
            rich_help_panel=Panel.SYNC,
        ),
    ] = False

    def values(self) -> dict[str, Any]:
        """The options that were given, by key of a job file's table `sync`. Raises UsageError."""
        return {
            "max_removals": None if self.max_removals is None else _removals(self.max_removals),
            "remove": False if self.no_remove else None,
            "assign": False if self.no_assign else None,
        }


def _removals(given: str) -> str:
    from batchlic.job import as_removals

    try:
        return as_removals(given)
    except ValueError as error:
        raise UsageError(f"--max-removals: {error}") from None


SYNC_OPTIONS = tuple(field.name for field in fields(SyncOptions))


@dataclass(frozen=True, kw_only=True)
class CanaryOptions:
    """Which devices are sent first, and what they decide."""

    canary: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICES|PERCENT",
            help="Devices to send first, in assign and unassign. The others follow only if these come out "
            "well.",
            show_default="none",
            rich_help_panel=Panel.CANARY,
        ),
    ] = None
    canary_failures: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="DEVICES",
            help="Devices of the canary that may fail or be in doubt.",
            show_default="0",
            rich_help_panel=Panel.CANARY,
        ),
    ] = None

    def values(self) -> dict[str, Any]:
        """The options that were given, by key of a job file's table `canary`. Raises UsageError."""
        return {
            "devices": None if self.canary is None else _canary(self.canary),
            "failures": self.canary_failures,
        }


def _canary(given: str) -> str:
    from batchlic.job import as_canary

    try:
        return as_canary(given)
    except ValueError as error:
        raise UsageError(f"--canary: {error}") from None


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What to plan, what to tolerate, and where the files go."""

    inventory: InventoryOptions = InventoryOptions()
    guards: GuardOptions = GuardOptions()
    sync: SyncOptions = SyncOptions()
    canary: CanaryOptions = CanaryOptions()
    max_rejects: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="ROWS",
            help="Rejected rows tolerated before exit code 3.",
            show_default="0",
            rich_help_panel=Panel.GUARDS,
        ),
    ] = None
    consent_lifetime: Annotated[
        bool,
        typer.Option(
            "--consent-lifetime",
            help="Allow Lifetime licenses (irrevocable).",
            rich_help_panel=Panel.LICENSE,
        ),
    ] = False
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            metavar="DEVICES",
            help="Devices per request.",
            show_default="100",
            rich_help_panel=Panel.LIMITS,
        ),
    ] = None
    run_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Run folder: a path, or an address such as s3://BUCKET/PATH.",
            parser=find_new_run_folder,
            show_default="a new folder in the state folder",
            rich_help_panel=Panel.OUTPUT,
        ),
    ] = None
    ledger: Annotated[
        str | None,
        typer.Option(
            metavar="PATH_OR_URL",
            help="Ledger of earlier runs: a file, or the URL of a PostgreSQL database.",
            show_default="the store, or ledger.db in the state folder or beside --run-dir",
            parser=ledger_location,
            rich_help_panel=Panel.LEDGER,
        ),
    ] = None
    new_ledger: NewLedger = False
    no_ledger: Annotated[
        bool,
        typer.Option("--no-ledger", help="Neither read nor update the ledger.", rich_help_panel=Panel.LEDGER),
    ] = False
    require_approval: Annotated[
        bool,
        typer.Option(
            "--require-approval",
            help="Send only a plan that another user has approved.",
            rich_help_panel=Panel.APPROVAL,
        ),
    ] = False
    approval_group: Annotated[
        str | None,
        typer.Option(
            metavar="GROUP",
            help="Group whose members may read the plan and approve it.",
            rich_help_panel=Panel.APPROVAL,
        ),
    ] = None
    json: Json = False

    def values(self) -> FlagValues:
        """The options that were given, by table and key of a job file. Raises UsageError for --column."""
        values = self.inventory.values()
        return {
            "inventory": values["inventory"] | self.guards.values(),
            "license": values["license"] | {"consent_lifetime": self.consent_lifetime or None},
            "limits": {"batch_size": self.batch_size, "max_rejects": self.max_rejects},
            "sync": self.sync.values(),
            "canary": self.canary.values(),
            "ledger": {
                "path": self.ledger,
                "use": False if self.no_ledger else None,
                "allow_new": self.new_ledger or None,
            },
            "approval": {"required": self.require_approval or None, "group": self.approval_group},
        }


@dataclass(frozen=True, kw_only=True)
class SendOptions:
    """How fast to send, and when to stop."""

    limit_scope: Annotated[
        Literal["login", "account"] | None,
        typer.Option(
            help="What the carrier limits: the login as a whole, or each account.",
            show_default="login",
            rich_help_panel=Panel.LIMITS,
        ),
    ] = None
    max_concurrency: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            metavar="REQUESTS",
            help="Most requests in flight.",
            show_default="64",
            rich_help_panel=Panel.LIMITS,
        ),
    ] = None
    max_rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="REQUESTS",
            help="Most requests per second.",
            show_default="as many as the carrier allows",
            rich_help_panel=Panel.LIMITS,
        ),
    ] = None
    headroom: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT",
            help="Share of the carrier's limit to leave to others, such as 20%.",
            show_default="0%",
            rich_help_panel=Panel.LIMITS,
        ),
    ] = None
    give_up_after: Annotated[
        float | None,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="Time without progress before the run stops.",
            show_default="1800",
            rich_help_panel=Panel.LIMITS,
        ),
    ] = None
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial",
            help="If licenses are too few, license as many as possible.",
            rich_help_panel=Panel.LICENSE,
        ),
    ] = False

    def limits(self) -> dict[str, Any]:
        """The options that were given, by key of a job file's table `limits`."""
        return {
            "scope": self.limit_scope,
            "max_concurrency": self.max_concurrency,
            "max_rate": self.max_rate,
            "headroom": percentage("--headroom", self.headroom),
            "give_up_after": self.give_up_after,
            "allow_partial": self.allow_partial or None,
        }


@dataclass(frozen=True, kw_only=True)
class WaitOptions:
    """How long to wait for callbacks after sending, and who receives them."""

    wait_callbacks: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Wait this long for callbacks after sending: 90s, 30m, 2h.",
            show_default="do not wait",
            rich_help_panel=Panel.CALLBACKS,
        ),
    ] = None
    store: StoreLocation = None
    listen_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            metavar="PORT",
            help="Port of a listener to run while waiting; 0 finds a free one.",
            show_default="no listener",
            rich_help_panel=Panel.CALLBACKS,
        ),
    ] = None
    listen_host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address of the listener of --listen-port.",
            rich_help_panel=Panel.CALLBACKS,
        ),
    ] = "127.0.0.1"
    require_confirmation: Annotated[
        bool,
        typer.Option(
            "--require-confirmation",
            help="Exit code 3 while accepted devices are not confirmed by a callback.",
            rich_help_panel=Panel.CALLBACKS,
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class MetricsOptions:
    """Where the metrics of a run go."""

    metrics_file: Annotated[
        str | None,
        typer.Option(
            metavar="PATH.prom",
            help="File for node_exporter's textfile collector, kept up to date.",
            rich_help_panel=Panel.MONITORING,
        ),
    ] = None
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            metavar="PORT",
            help="Port on 127.0.0.1 that serves /metrics while the run goes on; 0 finds a free one.",
            rich_help_panel=Panel.MONITORING,
        ),
    ] = None

    def values(self) -> dict[str, Any]:
        """The options that were given, by key of a job file's table `metrics`. Raises UsageError."""
        if self.metrics_file is not None or self.metrics_port is not None:
            self._refuse_missing_library()
        return {"file": self._file(), "port": self.metrics_port}

    def table(self, otherwise: "MetricsUse | None" = None) -> "MetricsUse":
        """These options, each that was not given as in `otherwise`. Raises UsageError."""
        from batchlic.job import MetricsUse

        given = {key: value for key, value in self.values().items() if value is not None}
        return MetricsUse(**{**(otherwise.model_dump() if otherwise else {}), **given})

    def _refuse_missing_library(self) -> None:
        from batchlic.monitoring.instruments import NO_METRICS, has_prometheus

        if not has_prometheus():
            option = "--metrics-port" if self.metrics_file is None else "--metrics-file"
            raise UsageError(f"{option}: {NO_METRICS}")

    def _file(self) -> str | None:
        if self.metrics_file is None:
            return None
        from batchlic.job import metrics_file

        try:
            return metrics_file(self.metrics_file)
        except ValueError as error:
            raise UsageError(f"--metrics-file {error}") from None


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Which processes send the run, if not this one alone."""

    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            metavar="N",
            help="Send from so many processes on this machine; needs a store, and the extra dask.",
            show_default="this process sends",
            rich_help_panel=Panel.CLUSTER,
        ),
    ] = None
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Send from the workers of a Dask cluster, such as tcp://scheduler:8786; needs a store, and "
            "the extra dask.",
            rich_help_panel=Panel.CLUSTER,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What to plan, how to send it, and how long to wait for callbacks."""

    plan: PlanOptions = PlanOptions()
    send: SendOptions = SendOptions()
    wait: WaitOptions = WaitOptions()
    metrics: MetricsOptions = MetricsOptions()
    cluster: ClusterOptions = ClusterOptions()
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent, send nothing, and leave no files.")
    ] = False
    no_report: Annotated[
        bool,
        typer.Option("--no-report", help="Write no report.html.", rich_help_panel=Panel.OUTPUT),
    ] = False
    yes: Yes = False
    sandbox: OnSandbox = False
    notify: Notifying = None

    def values(self) -> FlagValues:
        """The options that were given, by table and key of a job file. Raises UsageError for --column."""
        values = self.plan.values()
        values["limits"] |= self.send.limits()
        values["limits"]["require_confirmation"] = self.wait.require_confirmation or None
        values["metrics"] = self.metrics.values()
        values["report"] = {"write": False if self.no_report else None}
        return values


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `30m`, `2h`, `7d` or plain seconds. Raises UsageError."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise UsageError(f"{text!r} is not a duration: give seconds, or 90s, 30m, 2h, 7d")
    return float(found[1]) * _SECONDS[found[2]]


def parse_age(text: str, option: str) -> datetime:
    """The time that was `text` ago, such as `7d` or `12h`. Raises UsageError that names the option.

    A number without a unit is refused: nobody means seconds here.
    """
    if text.replace(".", "", 1).isdigit():
        raise UsageError(f"{option} {text}: give a unit, such as {text}d for days or {text}h for hours")
    try:
        seconds = parse_duration(text)
    except UsageError:
        raise UsageError(
            f"{option} {text!r} is not a duration: give days or hours, such as 7d, 12h"
        ) from None
    try:
        return datetime.now(UTC) - timedelta(seconds=seconds)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def offer(options: Mapping[str, Any], *commands: CommandInfo | TyperInfo) -> None:
    """Give these commands more options, by name, that their functions do not take.

    The callback of such an option has its effect. A value is a type that Typer understands; its default is
    None, or False for a flag.
    """
    for command in commands:
        if command.callback is not None:
            command.callback = _with_more(command.callback, options)


def _with_more(command: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    signature = inspect.signature(command)
    more = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if get_args(annotation)[0] is bool else None,
            annotation=annotation,
        )
        for name, annotation in options.items()
    ]

    @wraps(command)
    def taking_more(**given: Any) -> Any:  # noqa: ANN401 - whatever Typer has parsed
        return command(**{name: value for name, value in given.items() if name not in options})

    taking_more.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *more])  # type: ignore[attr-defined]
    taking_more.__annotations__ = {**command.__annotations__, **options}
    return taking_more


def with_option_groups(command: Callable[..., None], *, without: Collection[str] = ()) -> Callable[..., None]:
    """Give a command the fields of its option groups as options of its own, so that Typer sees them.

    An option group is a parameter, or a field of another group, whose type is a data class. The command does
    not offer the fields in `without`: they keep their defaults.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {
        name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)
    }
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        parameters += (
            _parameters(groups[name]) if name in groups else [parameter.replace(annotation=hints[name])]
        )

    parameters = [parameter for parameter in parameters if parameter.name not in without]

    @wraps(command)
    def flat(**given: Any) -> None:  # noqa: ANN401 - whatever Typer has parsed
        for name, group in groups.items():
            given[name] = _filled(group, given)
        command(**given)

    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


def _parameters(group: type[Any]) -> list[inspect.Parameter]:
    """The options of a group, and of the groups in it."""
    hints = get_type_hints(group, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for field in fields(group):
        if is_dataclass(hints[field.name]):
            parameters += _parameters(hints[field.name])
        else:
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    annotation=hints[field.name],
                    default=field.default,
                )
            )
    return parameters


def _filled(group: type[Any], given: dict[str, Any]) -> object:
    """A group with its values, which are taken out of `given`; a missing one is the default."""
    hints = get_type_hints(group)
    values = {
        field.name: _filled(hints[field.name], given)
        if is_dataclass(hints[field.name])
        else given.pop(field.name, field.default)
        for field in fields(group)
    }
    return group(**values)
