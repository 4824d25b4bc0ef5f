"""What to do: a job as TOML, or the same from flags. It says nothing about who we are."""

import os
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from batchlic.carrier.catalog import MAX_DEVICES_PER_REQUEST, SKUS, Action, LicenseType
from batchlic.errors import RefusedToStart, UsageError
from batchlic.reader import IdKind, ReadOptions, Role

AccountName = Annotated[str, Field(min_length=3, max_length=32)]
SkuNumber = Annotated[str, Field(min_length=3, max_length=32)]
Overrides = Mapping[str, Mapping[str, Any]]
"""Values from flags, by table and key of the job file; None where the flag was not given."""


class Table(BaseModel):
    """A table of a job file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Inventory(Table):
    """Which files hold the devices, and how to read them."""

    files: list[str] = Field(min_length=1)
    """Paths, from the folder of the job file."""
    columns: dict[Role, str] = {}
    """Role (imei, iccid, account, sku) to header or 1-based position, where the aliases do not find it."""
    id_kind: IdKind = IdKind.AUTO
    """Which identifiers are sent: auto (whatever the row has, IMEI first), imei, iccid or both."""
    sheet: str | None = None
    """Sheet of a workbook; the first one if not given."""
    accept_imeisv: bool = False
    """Take a 16-digit IMEISV as the IMEI that it holds."""
    check_digit: bool = True
    """Reject identifiers whose check digit is wrong."""


class Licensing(Table):
    """Which license goes where."""

    account: AccountName | None = None
    """Account of rows that name none."""
    sku: SkuNumber | None = None
    """SKU of rows that name none."""
    from_sku: SkuNumber | None = None
    to_sku: SkuNumber | None = None
    """For migrate: the SKU to leave and the SKU to get."""
    order: Literal["auto", "unassign-first"] = "auto"
    """For migrate: which license is dealt with first; auto: the new one, as far as there are enough."""
    restore: bool = False
    """For migrate: undo the first step of a device whose second one fails."""
    consent_lifetime: bool = False
    """An explicit yes to licenses that can never be taken back (promise E)."""
    other_skus: dict[SkuNumber, LicenseType] = {}
    """SKUs of the contract beside the known ones, each with what it is: lifetime or flexible."""


class Limits(Table):
    """How much at once, how long, and how much may be wrong."""

    batch_size: int = Field(default=MAX_DEVICES_PER_REQUEST, ge=1, le=MAX_DEVICES_PER_REQUEST)
    """Devices a request."""
    max_concurrency: int = Field(default=64, ge=1, le=1000)
    """Requests in flight."""
    max_rate: float | None = Field(default=None, gt=0)
    """Requests a second; no bound if not given."""
    fixed_rate: float | None = Field(default=None, gt=0)
    """Requests a second, pinned, instead of a pace that finds the carrier's limit by itself."""
    give_up_after: float = Field(default=1800, gt=0)
    """Seconds without any progress after which the run stops, resumable."""
    resend_in_doubt: bool = True
    """Ask again for a flexible license whose request may have been executed (promise D)."""
    allow_partial: bool = False
    """Where licenses are too few, plan as many devices as fit instead of stopping before anything is sent."""
    max_rejects: int = Field(default=0, ge=0)
    """Input rows that may be rejected without spoiling the exit code."""


class LedgerUse(Table):
    """Which record of earlier runs counts."""

    path: str | None = None
    """The ledger's file, from the job file's folder; `ledger.db` beside the run's folder if not given."""
    use: bool = True
    """Skip the devices that the ledger knows to be licensed, and tell it what becomes of the others."""

    @field_validator("path")
    @classmethod
    def _is_the_same_from_everywhere(cls, path: str | None) -> str | None:
        return path and os.path.abspath(path)  # noqa: PTH100 - the text goes into the run's identity


class Rehearsal(Table):
    """The carrier that `--sandbox` starts; of no meaning otherwise."""

    rate: float | None = Field(default=None, gt=0)
    """Its hidden limit, in requests a second; none if not given."""
    burst: int = Field(default=20, ge=1)
    """Requests that it lets through at once."""
    latency: float = Field(default=0.0, ge=0)
    """Seconds that it takes to answer."""
    callback_delay: float = Field(default=0.0, ge=0)
    """Seconds until an outcome is called back; each comes up to as much later still."""
    callback_failures: float = Field(default=0.0, ge=0, le=1)
    """Share of the devices that it takes and then does not serve."""
    seed: int = 0


class Job(Table):
    """A job: what a scheduler or a person wants done."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """None where flags alone say what to do. Two runs of one name do not go on at the same time."""
    action: Literal["assign", "unassign", "migrate"]
    inventory: Inventory
    license: Licensing = Licensing()
    limits: Limits = Limits()
    ledger: LedgerUse = LedgerUse()
    sandbox: Rehearsal = Rehearsal()

    @model_validator(mode="after")
    def _fits_its_action(self) -> Self:
        license = self.license
        if self.action == "migrate":
            if not (license.from_sku and license.to_sku) or license.sku:
                raise ValueError("license: migrate takes from_sku and to_sku, and no sku")
            if license.from_sku == license.to_sku:
                raise ValueError(f"license: there is nothing to migrate from {license.to_sku} to itself")
        elif license.from_sku or license.to_sku or license.restore or license.order != "auto":
            raise ValueError(
                f"license: {self.action} takes sku; from_sku, to_sku, order and restore are for migrate"
            )
        for sku in filter(None, (license.sku, license.from_sku, license.to_sku)):
            if sku not in self.skus:
                raise ValueError(f"license: unknown SKU {sku}{_suggest(sku, self.skus)}")
        return self

    @property
    def skus(self) -> dict[str, LicenseType]:
        """Every SKU that this job may name."""
        return {**SKUS, **self.license.other_skus}

    @property
    def resendable_skus(self) -> frozenset[str]:
        """SKUs whose requests may be repeated when in doubt: never a Lifetime one (promise D)."""
        flexible = (sku for sku, license in self.skus.items() if license is LicenseType.FLEXIBLE)
        return frozenset(flexible) if self.limits.resend_in_doubt else frozenset()

    @property
    def request_action(self) -> Action:
        """What its requests do with the SKU of the plan; a migration begins with taking that away."""
        return Action.ASSIGN if self.action == "assign" else Action.UNASSIGN

    @property
    def restorable_skus(self) -> frozenset[str]:
        """Of a migration, the SKUs whose step may be undone: not a Lifetime one, none unless asked for."""
        license = self.license
        both = filter(None, (license.from_sku, license.to_sku))
        flexible = (sku for sku in both if self.skus[sku] is LicenseType.FLEXIBLE)
        return frozenset(flexible) if license.restore else frozenset()

    def read_options(self) -> ReadOptions:
        """How its inventories are to be read."""
        inventory = self.inventory
        return ReadOptions(
            action=self.request_action,
            account=self.license.account,
            sku=self.license.from_sku or self.license.sku,
            only_sku=self.license.from_sku,
            id_kind=inventory.id_kind,
            columns={role.value: column for role, column in inventory.columns.items()},
            sheet=inventory.sheet,
            accept_imeisv=inventory.accept_imeisv,
            check_digit=inventory.check_digit,
            other_skus=self.license.other_skus,
        )

    def require_consent(self, planned_skus: Iterable[str]) -> None:
        """Raise RefusedToStart if Lifetime licenses would be assigned without a yes (promise E).

        A migration assigns its `to_sku`, whatever SKUs its plan leaves.
        """
        if self.license.to_sku:
            planned_skus = {self.license.to_sku} if list(planned_skus) else ()
        lifetime = sorted(sku for sku in planned_skus if self.skus[sku] is LicenseType.LIFETIME)
        if self.action != "unassign" and lifetime and not self.license.consent_lifetime:
            raise RefusedToStart(
                f"{', '.join(lifetime)} is a Lifetime license: it can never be taken back. Say yes with "
                "--consent-lifetime, or consent_lifetime = true in the job's [license]"
            )


def load_job(path: Path, overrides: Overrides) -> Job:
    """Read a job file; `overrides` win over it. Raises UsageError that names file and key."""
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
    ledger = content.get("ledger")
    if isinstance(ledger, dict) and "path" in ledger:
        ledger["path"] = _from_folder(path.parent, ledger["path"])
    return make_job(content, overrides, where=str(path))


def make_job(content: Mapping[str, Any], overrides: Overrides, *, where: str) -> Job:
    """A job from a job file's content. Raises UsageError; `where` is what the error calls its source."""
    try:
        return Job.model_validate(_merged(content, overrides))
    except ValidationError as error:
        problems = "; ".join(
            _explain(problem["loc"], problem["msg"], problem["type"]) for problem in error.errors()
        )
        raise UsageError(f"{where}: {problems}") from None


def _merged(content: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The content with what is given in `overrides`, table by table, however deep."""
    merged = dict(content)
    for key, value in overrides.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key, {}), dict):
            if deeper := _merged(merged.get(key, {}), value):
                merged[key] = deeper
        elif value is not None:
            merged[key] = value
    return merged


def _from_folder(folder: Path, file: object) -> object:
    if not isinstance(file, str) or file == "-" or "://" in file:
        return file
    return os.path.normpath(folder / file)


def _explain(location: tuple[int | str, ...], message: str, kind: str) -> str:
    key = ".".join(map(str, location))
    if kind == "extra_forbidden":
        return f"{key}: there is no such key{_suggest(str(location[-1]), _keys_beside(location))}"
    if kind == "missing":
        return f"{key}: is missing"
    return f"{key}: {message}" if key else message.removeprefix("Value error, ")


def _keys_beside(location: tuple[int | str, ...]) -> Iterable[str]:
    table: type[BaseModel] = Job
    for step in location[:-1]:
        inner = table.model_fields[str(step)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return ()
        table = inner
    return table.model_fields


def _suggest(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
