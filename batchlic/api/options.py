"""The options of a job as keyword arguments, and where each is in a job file."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypedDict

from batchlic.carrier.catalog import LicenseType
from batchlic.errors import UsageError


class JobOptions(TypedDict, total=False):
    """Options that every action accepts, beside its own arguments. docs/reference/jobs.md explains each.

    Messages of errors name them as the command line does: `--max-rejects` is `max_rejects`.
    """

    id_kind: Literal["auto", "imei", "iccid", "both"]
    """Identifiers to send [auto: the one in the row, IMEI first]."""
    columns: Mapping[Literal["imei", "iccid", "account", "sku"], str]
    """Column by role: its header, path (`device.imei`) or position from 1; `-` for none."""
    keep: Sequence[str]
    """Columns to keep in results and rejects, as text: headers, or NAME=HEADER."""
    format_profile: str
    """Known platform whose exports the inventories are [recognized]."""
    sheet: str
    """Sheet of a workbook [the first visible one]."""
    accept_imeisv: bool
    """Accept a 16-digit IMEISV, and plan its IMEI [False]."""
    check_digit: bool
    """Reject identifiers with a wrong check digit [True]."""
    download_timeout: float
    """Seconds to wait for an inventory's server [60]."""
    query: str
    """SQL text that reads the inventories that are databases."""
    allow_empty: bool
    """Accept inventories without rows [False]."""
    min_rows: int
    """Fewest rows with which a run starts [any number]."""
    max_change: str
    """Largest change of the number of rows since the job's last run, such as `20%` [any]."""
    other_skus: Mapping[str, LicenseType | Literal["lifetime", "flexible"]]
    """SKUs of the contract that batchlic does not know, with the type of their licenses."""
    batch_size: int
    """Devices per request, 1 to 100 [100]."""
    limit_scope: Literal["login", "account"]
    """What the carrier limits: the login as a whole, or each account [login]."""
    max_concurrency: int
    """Most requests in flight, of all accounts together [64]."""
    max_rate: float
    """Most requests per second, of the login or of each account [as many as the carrier allows]."""
    fixed_rate: float
    """Constant requests per second, instead of a limiter that finds the carrier's limit."""
    headroom: str
    """Share of the carrier's limit to leave to others, such as `20%` [0%]."""
    give_up_after: float
    """Seconds without progress before the run stops [1800]."""
    resend_in_doubt: bool
    """Send a request in doubt again if its license is flexible [True]."""
    trust_duplicates: bool
    """Count a request in doubt as accepted if its repetition is refused as a duplicate [True]."""
    allow_partial: bool
    """If licenses are too few, license as many devices as possible [False]."""
    max_rejects: int
    """Rejected rows tolerated before exit code 3 [0]."""
    require_confirmation: bool
    """Exit code 3 while accepted devices are not confirmed by a callback [False]."""
    canary: int | str
    """assign, unassign: devices to send first, as a number or a percentage [none]."""
    canary_failures: int
    """Devices of the canary that may fail or be in doubt [0]."""
    canary_confirmed: bool
    """Send the others only when callbacks have reported the outcome of the canary [False]."""
    ledger: str | PathLike[str]
    """Ledger: a file, or the URL of a PostgreSQL database [the store, or `ledger.db` in the state folder or
    beside `run_dir`]."""
    use_ledger: bool
    """Skip devices that are licensed according to the ledger, and record the others there [True]."""
    new_ledger: bool
    """Allow a ledger without records of licenses that are already assigned [False]."""
    require_approval: bool
    """Send only a plan that another user has approved [False]."""
    approval_group: str
    """Group whose members may read the plan and approve it."""
    write_report: bool
    """Write report.html when the run ends [True]."""


class AnyOptions(JobOptions, total=False):
    """The options of all actions, for `plan` and `run`."""

    from_sku: str
    """migrate: SKU that the devices have now."""
    to_sku: str
    """migrate: SKU that the devices get."""
    order: Literal["auto", "unassign-first"]
    """migrate: license to handle first [auto: the new one while enough are left]."""
    restore: bool
    """migrate: undo the first step of a device if its second step fails [False]."""
    max_removals: int | str
    """sync: most devices that lose their license, as a number or a percentage [1%]."""
    remove: bool
    """sync: take the licenses of devices that are gone from the inventory [True]."""
    assign: bool
    """sync: assign licenses to devices without one [True]."""


PLACES = {
    "account": ("license", "account"),
    "accept_imeisv": ("inventory", "accept_imeisv"),
    "allow_empty": ("inventory", "allow_empty"),
    "allow_partial": ("limits", "allow_partial"),
    "approval_group": ("approval", "group"),
    "assign": ("sync", "assign"),
    "batch_size": ("limits", "batch_size"),
    "canary": ("canary", "devices"),
    "canary_confirmed": ("canary", "confirmed"),
    "canary_failures": ("canary", "failures"),
    "check_digit": ("inventory", "check_digit"),
    "columns": ("inventory", "columns"),
    "consent_lifetime": ("license", "consent_lifetime"),
    "download_timeout": ("inventory", "download_timeout"),
    "fixed_rate": ("limits", "fixed_rate"),
    "format_profile": ("inventory", "format_profile"),
    "from_sku": ("license", "from_sku"),
    "give_up_after": ("limits", "give_up_after"),
    "headroom": ("limits", "headroom"),
    "id_kind": ("inventory", "id_kind"),
    "keep": ("inventory", "keep"),
    "ledger": ("ledger", "path"),
    "limit_scope": ("limits", "scope"),
    "max_change": ("inventory", "max_change"),
    "max_concurrency": ("limits", "max_concurrency"),
    "max_rate": ("limits", "max_rate"),
    "max_rejects": ("limits", "max_rejects"),
    "max_removals": ("sync", "max_removals"),
    "min_rows": ("inventory", "min_rows"),
    "new_ledger": ("ledger", "allow_new"),
    "order": ("license", "order"),
    "other_skus": ("license", "other_skus"),
    "query": ("inventory", "query"),
    "remove": ("sync", "remove"),
    "require_approval": ("approval", "required"),
    "require_confirmation": ("limits", "require_confirmation"),
    "resend_in_doubt": ("limits", "resend_in_doubt"),
    "restore": ("license", "restore"),
    "sheet": ("inventory", "sheet"),
    "sku": ("license", "sku"),
    "to_sku": ("license", "to_sku"),
    "trust_duplicates": ("limits", "trust_duplicates"),
    "use_ledger": ("ledger", "use"),
    "write_report": ("report", "write"),
}
"""Table and key in a job file, by the name of an argument."""


def overrides(given: Mapping[str, object]) -> dict[str, dict[str, Any]]:
    """The arguments by table and key of a job file. Raises UsageError for an unknown one."""
    tables: dict[str, dict[str, Any]] = {}
    for name, value in given.items():
        if name not in PLACES:
            raise UsageError(f"there is no option {name!r}; known: {', '.join(PLACES)}")
        table, key = PLACES[name]
        tables.setdefault(table, {})[key] = str(value) if isinstance(value, PathLike) else value
    return tables
