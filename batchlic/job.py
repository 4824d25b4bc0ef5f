"""Jobs: what to do with which devices, from a TOML file or options. A job holds no credentials."""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from batchlic.carrier.catalog import MAX_DEVICES_PER_REQUEST, SKUS, Action, LicenseType
from batchlic.errors import InventoryError, RefusedToStart, UsageError
from batchlic.reader import IdKind, ReadOptions, Role
from batchlic.reader.inputs.databases import checked_query, database_at, in_folder
from batchlic.reader.options import kept_columns

AccountName = Annotated[str, Field(min_length=3, max_length=32)]
SkuNumber = Annotated[str, Field(min_length=3, max_length=32, examples=list(SKUS))]


def as_percentage(given: object) -> str:
    """A percentage (`20%`), or a number below 1 (`0.2`), as a percentage. Raises ValueError for other values.

    Numbers from 1 are refused: 20 might mean 20%, or twenty times as many.
    """
    found = _SHARE.fullmatch(str(given).strip())
    number = Decimal(found[1]) if found else Decimal(1)
    is_percentage = found is not None and found[2] == "%"
    if not is_percentage and number >= 1:
        raise ValueError(f"{given!r} is not a share: give a percentage such as 20%, or a number such as 0.2")
    return f"{(number if is_percentage else number * 100).normalize():f}%"


def as_removals(given: object) -> str:
    """A number of devices (`50`) or a percentage up to 100% (`1%`), as text. Raises ValueError for others."""
    found = _REMOVALS.fullmatch(str(given).strip()) if not isinstance(given, bool) else None
    if found is None:
        raise ValueError(
            f"{given!r} is neither a number of devices, such as 50, nor a percentage, such as 1%"
        )
    number = Decimal(found[1])
    if found[2] == "%":
        if number > 100:
            raise ValueError(f"{given!r} is more than all devices: give at most 100%")
        return f"{number.normalize():f}%"
    if number != int(number):
        raise ValueError(f"{given!r} is no whole number of devices: give one such as 50, or a percentage")
    return f"{int(number)}"


_REMOVALS = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s?(%?)")
_SIZE_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": 999_999_999},
        {
            "type": "string",
            "pattern": r"^\s*([0-9]{1,9}(\.0{1,9})?|(100(\.0{1,9})?|[0-9]{1,2}(\.[0-9]{1,9})?)\s?%)\s*$",
            "examples": ["1%", "50"],
        },
    ]
}
MostRemovals = Annotated[str, BeforeValidator(as_removals), WithJsonSchema(_SIZE_SCHEMA)]


def as_canary(given: object) -> str:
    """The size of a canary: what `as_removals` accepts, above zero. Raises ValueError for others."""
    size = as_removals(given)
    if not Decimal(size.removesuffix("%")):
        raise ValueError(f"{given!r} is no device: give a number from 1, or a percentage above 0%")
    return size


CanarySize = Annotated[str, BeforeValidator(as_canary), WithJsonSchema(_SIZE_SCHEMA)]


def as_share(percentage: str) -> float:
    """A percentage as a number: 0.2 for `20%`."""
    return float(percentage.removesuffix("%")) / 100


def metrics_file(given: str) -> str:
    """The path of a metrics file. Raises ValueError for a name that node_exporter does not read."""
    if not given.endswith(".prom"):
        raise ValueError(f"{given}: the name must end with .prom: node_exporter reads no other files")
    return given


_SHARE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s?(%?)")
_SHARE_SCHEMA = {
    "anyOf": [
        {
            "type": "string",
            "pattern": r"^\s*([0-9]{1,9}(\.[0-9]{1,9})?\s?%|0{1,9}(\.[0-9]{1,9})?)\s*$",
            "examples": ["20%"],
        },
        {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    ]
}
Percentage = Annotated[str, BeforeValidator(as_percentage), WithJsonSchema(_SHARE_SCHEMA)]
Overrides = Mapping[str, Any]
"""Values that override those of a job file, by table and key; a name is in no table. None means that no value
was given."""


class Table(BaseModel):
    """A table of a job file. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Inventory(Table):
    """The files that list the devices, and how to read them."""

    files: list[str] = Field(min_length=1)
    """Inventories: paths, which start at the job file's folder, addresses, or databases."""
    query: Annotated[str, AfterValidator(checked_query)] | None = None
    """SQL text that reads the rows of the inventories that are databases."""
    columns: dict[Role, str] = {}
    """Header, path (`device.imei`) or position from 1 by role (imei, iccid, account, sku); `-`: no column."""
    keep: list[str] = []
    """Columns whose cells go into results, rejects and exports as text: header, path or position, or
    `NAME=HEADER` to rename one."""
    format_profile: str | None = None
    """Known export that all files are; None: recognized by its columns."""
    id_kind: IdKind = IdKind.AUTO
    """Identifiers to send; `auto`: the one that the row has, IMEI first."""
    sheet: str | None = None
    """Sheet of a workbook; None: the first visible one."""
    accept_imeisv: bool = False
    """Accept a 16-digit IMEISV, and plan its IMEI."""
    check_digit: bool = True
    """Reject identifiers with a wrong check digit."""
    download_timeout: float = Field(default=60.0, gt=0)
    """Seconds to wait for the server of an address, or for more of its file."""
    allow_empty: bool = False
    """Accept inventories without rows, instead of exit 2."""
    min_rows: int | None = Field(default=None, ge=0)
    """Fewest rows, in all files together. With fewer, nothing is sent and the job exits 4; None: any
    number."""
    max_change: Percentage | None = None
    """Largest change of the number of rows since the last run of the job, `"20%"` or `0.2`. With more,
    nothing is sent and the job exits 4; None: any change."""

    @field_validator("keep")
    @classmethod
    def _has_usable_names(cls, keep: list[str]) -> list[str]:
        kept_columns(keep)
        return keep

    @field_validator("files")
    @classmethod
    def _has_no_password(cls, files: list[str]) -> list[str]:
        try:
            for name in files:
                database_at(name)
        except InventoryError as error:
            raise ValueError(str(error)) from None
        return files


class Licensing(Table):
    """Which license the devices get or lose."""

    account: AccountName | None = None
    """Default account for rows without one."""
    sku: SkuNumber | None = None
    """Default SKU for rows without one."""
    from_sku: SkuNumber | None = None
    """For migrate: the SKU that devices have."""
    to_sku: SkuNumber | None = None
    """For migrate: the SKU that devices get."""
    order: Literal["auto", "unassign-first"] = "auto"
    """For migrate: the license to handle first; `auto`: the new one while enough are left."""
    restore: bool = False
    """For migrate: undo the first step of a device if its second step fails."""
    consent_lifetime: bool = False
    """Allow Lifetime licenses (irrevocable). Without it, such a job exits 4 (promise E)."""
    other_skus: dict[SkuNumber, LicenseType] = {}
    """More SKUs of your contract, each `"lifetime"` or `"flexible"`."""


class Limits(Table):
    """How fast to send, and what a run tolerates."""

    batch_size: int = Field(default=MAX_DEVICES_PER_REQUEST, ge=1, le=MAX_DEVICES_PER_REQUEST)
    """Devices per request."""
    scope: Literal["login", "account"] = "login"
    """What the carrier limits: the `login`, with all its accounts together, or each `account`. With
    `account`, each one has its own rate, headroom and waits, and accounts do not wait for one another."""
    max_concurrency: int = Field(default=64, ge=1, le=1000)
    """Most requests in flight, of all accounts together."""
    max_rate: float | None = Field(default=None, gt=0)
    """Most requests per second, by `scope`; None: as many as the carrier allows."""
    fixed_rate: float | None = Field(default=None, gt=0)
    """Constant requests per second, by `scope`, instead of a limiter that finds the carrier's limit."""
    headroom: Percentage = "0%"
    """Share of the carrier's limit to leave to others who use the same login, `"20%"` or `0.2`."""
    give_up_after: float = Field(default=1800, gt=0)
    """Seconds without progress before the run stops with exit 6. Pauses do not count."""
    resend_in_doubt: bool = True
    """Send a request for flexible licenses again if its answer was lost (promise D)."""
    trust_duplicates: bool = True
    """Count a request in doubt as accepted if the carrier refuses its repetition as a duplicate."""
    allow_partial: bool = False
    """If licenses are too few, plan as many devices as there are licenses. The others are rejected as
    `no_license`."""
    max_rejects: int = Field(default=0, ge=0)
    """Rejected rows tolerated before exit code 3."""
    require_confirmation: bool = False
    """Exit code 3 while devices are accepted, but not confirmed by a callback."""

    @field_validator("headroom")
    @classmethod
    def _is_below_all(cls, headroom: str) -> str:
        if as_share(headroom) >= 1:
            raise ValueError(f"{headroom} leaves nothing to this run: give less than 100%")
        return headroom

    @model_validator(mode="after")
    def _has_a_limit_to_find(self) -> Self:
        if self.fixed_rate is not None and as_share(self.headroom):
            raise ValueError("headroom is a share of the limit that is found: remove headroom or fixed_rate")
        return self


class Syncing(Table):
    """What a sync may do to make the licenses equal to the inventory."""

    max_removals: MostRemovals = "1%"
    """Most devices that lose their license: a number, or a percentage of each account and SKU."""
    remove: bool = True
    """Take the licenses of devices that are gone from the inventory."""
    assign: bool = True
    """Assign licenses to devices without one."""


class Canary(Table):
    """The devices that are sent first; the others only if these come out well (docs/how-to/canary.md)."""

    devices: CanarySize | None = None
    """How many: a number, or a percentage of the devices to send; None: no canary."""
    failures: int = Field(default=0, ge=0)
    """Devices of the canary that may fail or be in doubt."""
    confirmed: bool = False
    """Send the others only when callbacks have reported the outcome of each device of the canary.
    `--wait-callbacks` sets it."""

    @model_validator(mode="after")
    def _has_devices(self) -> Self:
        if self.devices is None and (self.failures or self.confirmed):
            raise ValueError("failures and confirmed need a canary: give devices (--canary)")
        return self

    def size(self, to_send: int) -> int:
        """The number of devices of the canary, among so many to send.

        Raises UsageError if a percentage of them is not even one device.
        """
        if self.devices is None:
            return 0
        if not self.devices.endswith("%"):
            return min(int(self.devices), to_send)
        size = int(to_send * Decimal(self.devices.removesuffix("%")) / 100)
        if to_send and not size:
            raise UsageError(
                f"canary: {self.devices} of {to_send:,} devices to send is not even one device. Give a "
                "number, such as --canary 1, or a higher percentage"
            )
        return size


class LedgerUse(Table):
    """The ledger to read before a run, and to update after it."""

    path: str | None = None
    """Ledger: a file, or the URL of a PostgreSQL database without a password; the path starts at the job
    file's folder; None: the store, or without one `ledger.db` in the state folder."""
    allow_new: bool = False
    """Start although the carrier counts licenses of which the ledger has no record. For one run,
    `--new-ledger` is better."""
    use: bool = True
    """Skip devices that are licensed according to the ledger, and record the others."""

    @field_validator("path")
    @classmethod
    def _is_absolute(cls, path: str | None) -> str | None:
        if path and "://" in path:
            return _without_password(path)
        return path and os.path.abspath(path)  # noqa: PTH100 - the text goes into the run's identity


class StoreUse(Table):
    """The database that machines share (docs/how-to/shared-state.md)."""

    url: str | None = None
    """PostgreSQL database for journal and ledger, without a password; None: BATCHLIC_STORE, or files."""

    @field_validator("url")
    @classmethod
    def _has_no_password(cls, url: str | None) -> str | None:
        return _without_password(url) if url else None


def _without_password(url: str) -> str:
    """The name of a PostgreSQL database. Raises ValueError if the URL is another one, or has a password."""
    from batchlic.database import postgresql  # noqa: PLC0415 - SQLAlchemy

    try:
        parsed = postgresql.parse(url, what="the store")
    except UsageError as error:
        raise ValueError(str(error)) from None
    if parsed.password is not None:
        raise ValueError(
            "a password here would show to everyone who reads the job file: put the URL with its "
            "password into BATCHLIC_STORE, or the password into the file that PGPASSFILE names"
        )
    return postgresql.name_of(parsed)


class Approval(Table):
    """Whether a second person approves the plan before anything is sent (docs/how-to/review.md)."""

    required: bool = False
    """Send only a plan that another user of the operating system has approved. For one run,
    `--require-approval`."""
    group: str | None = Field(default=None, min_length=1)
    """Group of the operating system whose members may read the plan and approve it."""


class MetricsUse(Table):
    """Where the metrics of a run go. Nothing goes anywhere by default."""

    file: str | None = None
    """File for the textfile collector of node_exporter, one for each job. The path starts at the job file's
    folder, and ends with `.prom`."""
    port: int | None = Field(default=None, ge=0, le=65535)
    """Port on 127.0.0.1 that serves `/metrics` while the run goes on; 0 finds a free one."""

    @field_validator("file")
    @classmethod
    def _is_absolute(cls, path: str | None) -> str | None:
        return path and os.path.abspath(metrics_file(path))  # noqa: PTH100 - as LedgerUse.path


class ReportUse(Table):
    """The report for people."""

    write: bool = True
    """Write report.html at the end of each session. `--no-report` turns it off for one run."""


class EmbeddedSandbox(Table):
    """The sandbox carrier that `--sandbox` starts. Runs without `--sandbox` ignore this table."""

    rate: float | None = Field(default=None, gt=0)
    """Hidden limit, requests per second; None: no limit."""
    burst: int = Field(default=20, ge=1)
    """Requests that the carrier admits at once."""
    latency: float = Field(default=0.0, ge=0)
    """Seconds that an answer takes."""
    callback_delay: float = Field(default=0.0, ge=0)
    """Seconds until the sandbox calls back with an outcome. A random delay up to the same length is added."""
    callback_failures: float = Field(default=0.0, ge=0, le=1)
    """Share of accepted devices that fail afterwards."""
    seed: int = 0
    """The same seed gives the same faults and ids."""


SettingSuffix = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,31}$")]
"""The end of the name of a setting, in capitals or not."""


class Notify(Table):
    """Who is told how the runs of a job end. The URLs are settings, because they hold secrets."""

    to: list[SettingSuffix] | None = None
    """Names of URLs for messages: `["ops"]` is `BATCHLIC_NOTIFY_URL_OPS`, and `[]` sends no messages; None:
    the URLs of `BATCHLIC_NOTIFY_URLS`."""
    on: list[Literal["failure", "doubt", "rejects", "recovered"]] = [
        "failure",
        "doubt",
        "rejects",
        "recovered",
    ]
    """Changes to send a message about."""
    heartbeat: SettingSuffix | None = None
    """Name of the heartbeat's URL: `"fleet"` is `BATCHLIC_HEARTBEAT_URL_FLEET`; None:
    `BATCHLIC_HEARTBEAT_URL`, if it is set."""
    heartbeat_ok: list[Annotated[int, Field(ge=0, le=6)]] = [0]
    """Exit codes that the heartbeat reports as a success."""

    @model_validator(mode="before")
    @classmethod
    def _has_no_url(cls, table: object) -> object:
        if isinstance(table, dict) and "://" in str(list(table.values())):
            raise ValueError(
                "a URL here would show its secret to everyone who reads the job file: put the URL in the "
                "environment or the credentials file as BATCHLIC_NOTIFY_URLS, or as BATCHLIC_NOTIFY_URL_OPS "
                'and write to = ["ops"] here; that of a heartbeat is BATCHLIC_HEARTBEAT_URL'
            )
        return table


class Job(Table):
    """One action on the devices of some inventories, with everything that a run needs except credentials."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the job; by default that of its file. Runs of the same name are never at work together."""
    action: Literal["assign", "unassign", "migrate", "sync"]
    """What to do with the licenses of the devices."""
    inventory: Inventory
    """The files that list the devices, and how to read them."""
    license: Licensing = Licensing()
    """Which license the devices get or lose."""
    limits: Limits = Limits()
    """How fast to send, and what a run tolerates."""
    sync: Syncing | None = None
    """What a sync may do; only for the action sync."""
    ledger: LedgerUse = LedgerUse()
    """The ledger to read before a run, and to update after it."""
    store: StoreUse = StoreUse()
    """The database that machines share; by default there is none, and all state is in files."""
    approval: Approval = Approval()
    """Whether a second person approves the plan before anything is sent."""
    canary: Canary = Canary()
    """The devices that are sent first; the others only if these come out well."""
    metrics: MetricsUse = MetricsUse()
    """Where the metrics of a run go."""
    report: ReportUse = ReportUse()
    """The report for people."""
    sandbox: EmbeddedSandbox = EmbeddedSandbox()
    """The sandbox carrier that `--sandbox` starts."""
    notify: Notify | None = None
    """Who is told how the runs of the job end; None: nobody."""

    @model_validator(mode="before")
    @classmethod
    def _has_rules_of_sync(cls, content: Any) -> Any:  # noqa: ANN401 - whatever is validated next
        if isinstance(content, dict) and content.get("action") == "sync" and content.get("sync") is None:
            return {**content, "sync": {}}
        return content

    @model_validator(mode="after")
    def _syncs_with_a_ledger(self) -> Self:
        if self.sync is None:
            return self
        if self.action != "sync":
            raise ValueError(
                f"sync: this table (and its options) is for the action sync, not for {self.action}"
            )
        if not self.ledger.use:
            raise ValueError(
                "ledger: sync compares the inventory with the ledger; remove use = false (--no-ledger)"
            )
        if not (self.sync.remove or self.sync.assign):
            raise ValueError(
                "sync: without removing and assigning, nothing is left to do; to see the difference, use "
                "--dry-run"
            )
        return self

    @model_validator(mode="after")
    def _can_have_a_canary(self) -> Self:
        if self.canary.devices is not None and self.action not in {"assign", "unassign"}:
            raise ValueError(
                f"canary: only for assign and unassign, not for {self.action}. Remove canary (--canary)"
            )
        return self

    @model_validator(mode="after")
    def _fits_its_action(self) -> Self:
        license = self.license
        if self.action == "migrate":
            if not (license.from_sku and license.to_sku) or license.sku:
                raise ValueError("license: migrate takes from_sku and to_sku; remove sku")
            if license.from_sku == license.to_sku:
                raise ValueError(
                    f"license: from_sku and to_sku are both {license.to_sku}: there is nothing to migrate"
                )
        elif license.from_sku or license.to_sku or license.restore or license.order != "auto":
            raise ValueError(
                f"license: {self.action} takes sku; from_sku, to_sku, order and restore are for migrate"
            )
        for sku in filter(None, (license.sku, license.from_sku, license.to_sku)):
            if sku not in self.skus:
                raise ValueError(f"license: unknown SKU {sku}{suggestion(sku, self.skus)}")
        return self

    @property
    def skus(self) -> dict[str, LicenseType]:
        """The SKUs that batchlic knows and those of the contract, each with the type of its licenses."""
        return {**SKUS, **self.license.other_skus}

    @property
    def resendable_skus(self) -> frozenset[str]:
        """SKUs whose requests may be sent again when in doubt; never a Lifetime one (promise D)."""
        flexible = (sku for sku, license in self.skus.items() if license is LicenseType.FLEXIBLE)
        return frozenset(flexible) if self.limits.resend_in_doubt else frozenset()

    @property
    def request_action(self) -> Action:
        """What requests do with the SKU of the plan. The plan of a migration has the SKU to unassign.

        In a sync, what they do with the devices of the inventory.
        """
        return Action.ASSIGN if self.action in {"assign", "sync"} else Action.UNASSIGN

    @property
    def lifetime_skus(self) -> frozenset[str]:
        """SKUs whose licenses can't be taken back (promise E)."""
        return frozenset(sku for sku, license in self.skus.items() if license is LicenseType.LIFETIME)

    @property
    def restorable_skus(self) -> frozenset[str]:
        """SKUs whose step in a migration may be undone: no Lifetime SKU, and none without `restore`."""
        license = self.license
        both = filter(None, (license.from_sku, license.to_sku))
        flexible = (sku for sku in both if self.skus[sku] is LicenseType.FLEXIBLE)
        return frozenset(flexible) if license.restore else frozenset()

    def with_ledger(self, location: Path | str) -> Self:
        """The job with its ledger at an absolute path, or in the store with this name."""
        return self.model_copy(update={"ledger": self.ledger.model_copy(update={"path": str(location)})})

    def with_store(self, url: str | None) -> Self:
        """The job with this store, if it names none."""
        if url is None or self.store.url is not None:
            return self
        return self.model_copy(update={"store": StoreUse(url=url)})

    def with_default_account(self, account: str | None) -> Self:
        """The job with this default account, if it has none of its own."""
        if not account or self.license.account is not None:
            return self
        return self.model_copy(update={"license": self.license.model_copy(update={"account": account})})

    def with_canary(self, **rules: int | bool) -> Self:
        """The job with other rules for its canary; unchanged if it has none."""
        if self.canary.devices is None:
            return self
        return self.model_copy(update={"canary": self.canary.model_copy(update=rules)})

    def read_options(self) -> ReadOptions:
        """How to read the inventories."""
        inventory = self.inventory
        return ReadOptions(
            action=self.request_action,
            account=self.license.account,
            sku=self.license.from_sku or self.license.sku,
            only_sku=self.license.from_sku,
            id_kind=inventory.id_kind,
            columns={role.value: column for role, column in inventory.columns.items()},
            keep=kept_columns(inventory.keep),
            profile=inventory.format_profile,
            sheet=inventory.sheet,
            accept_imeisv=inventory.accept_imeisv,
            check_digit=inventory.check_digit,
            allow_empty=inventory.allow_empty,
            download_timeout=inventory.download_timeout,
            query=inventory.query,
            other_skus=self.license.other_skus,
        )

    def require_consent(self, planned_skus: Iterable[str]) -> None:
        """Raise RefusedToStart if Lifetime licenses would be assigned without consent (promise E).

        A migration assigns `to_sku`, while its plan has the SKU to unassign.
        """
        if self.license.to_sku:
            planned_skus = {self.license.to_sku} if list(planned_skus) else ()
        lifetime = sorted(sku for sku in planned_skus if self.skus[sku] is LicenseType.LIFETIME)
        if self.action != "unassign" and lifetime and not self.license.consent_lifetime:
            raise RefusedToStart(
                f"{', '.join(lifetime)}: Lifetime licenses are irrevocable. To assign them, give "
                "--consent-lifetime, or set consent_lifetime = true in the job's [license]"
            )


def load_job(path: Path, overrides: Overrides) -> Job:
    """Read a job file, and apply `overrides`. Raises UsageError that names file and key."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: can't read the job file: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}") from None
    content.setdefault("name", path.stem)
    inventory = content.get("inventory")
    if isinstance(inventory, dict) and isinstance(inventory.get("files"), list):
        inventory["files"] = [_from_folder(path.parent, file) for file in inventory["files"]]
    for table, key in (("ledger", "path"), ("metrics", "file")):
        if isinstance(content.get(table), dict) and key in content[table]:
            content[table][key] = _from_folder(path.parent, content[table][key])
    return make_job(content, overrides, where=str(path))


def make_job(content: Mapping[str, Any], overrides: Overrides, *, where: str) -> Job:
    """A job from the content of a job file. Raises UsageError that names the source (`where`) and the key."""
    if "canary" in content and not isinstance(content["canary"], Mapping):
        content = {**content, "canary": {"devices": content["canary"]}}  # canary = "1%"
    try:
        return Job.model_validate(_merged(content, overrides))
    except ValidationError as error:
        raise UsageError(f"{where}: {'; '.join(map(_explain, error.errors()))}") from None


def _merged(content: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The content with the values of `overrides` that are not None, in every table."""
    merged = dict(content)
    for key, value in overrides.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key, {}), dict):
            if deeper := _merged(merged.get(key, {}), value):
                merged[key] = deeper
        elif value is not None:
            merged[key] = value
    return merged


def _from_folder(folder: Path, file: object) -> object:
    if not isinstance(file, str) or file == "-":
        return file
    if "://" in file:
        return in_folder(file, folder)
    return os.path.normpath(folder / file)


def _explain(problem: Mapping[str, Any]) -> str:
    location = problem["loc"]
    key = ".".join(map(str, location))
    if problem["type"] == "extra_forbidden":
        return f"{key}: there is no such key{suggestion(str(location[-1]), _keys_beside(location))}"
    return f"{key}: {what_is_wrong(problem)}" if key else what_is_wrong(problem)


def what_is_wrong(problem: Mapping[str, Any]) -> str:
    """What is wrong with one value of a job, without its key."""
    known = problem.get("ctx", {})
    one_of = f"none of {known.get('expected')}".replace(" or ", ", ")
    wanted = {
        "bool_parsing": "neither true nor false",
        "bool_type": "neither true nor false",
        "enum": one_of,
        "float_parsing": "no number",
        "float_type": "no number",
        "greater_than": f"too small: give more than {known.get('gt')}",
        "greater_than_equal": f"too small: give at least {known.get('ge')}",
        "int_from_float": "no whole number",
        "int_parsing": "no whole number",
        "int_type": "no whole number",
        "less_than_equal": f"too large: give at most {known.get('le')}",
        "literal_error": one_of,
        "string_too_long": f"too long: give at most {known.get('max_length')} characters",
        "string_too_short": f"too short: give at least {known.get('min_length')} characters",
    }.get(problem["type"])
    if wanted is not None:
        given = repr(problem["input"])[:40]
        return f"{'the URL' if '://' in given else given} is {wanted}"  # a URL may hold a secret
    return {
        "list_type": 'is not a list: write ["…"]',
        "missing": "is missing",
        "string_type": 'is not text: write "…"',
    }.get(problem["type"], str(problem["msg"]).removeprefix("Value error, "))


def _keys_beside(location: tuple[int | str, ...]) -> Iterable[str]:
    table: type[BaseModel] = Job
    for step in location[:-1]:
        annotation = table.model_fields[str(step)].annotation
        tables = [
            inner
            for inner in (annotation, *get_args(annotation))
            if isinstance(inner, type) and issubclass(inner, BaseModel)
        ]
        if not tables:
            return ()
        table = tables[0]
    return table.model_fields


def suggestion(unknown: str, known: Iterable[str]) -> str:
    """What may be meant by an unknown word, as the end of a message."""
    near = get_close_matches(unknown, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
