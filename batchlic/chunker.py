"""Device rows to a plan, and the plan back to batches: contiguous row ranges of plan.parquet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING

from batchlic.carrier.catalogue import Action
from batchlic.carrier.messages import EncodedDevice, EncodedDevices, encode_request, split_devices
from batchlic.durable import replacing, scratch_in
from batchlic.reader import IdKind, ReadOptions, Source

if TYPE_CHECKING:
    import polars as pl
    from polars._typing import PolarsDataType

    from batchlic.reader.known import Known

ROWS_PER_READ = 50_000
"""How much of plan.parquet is in memory at once, in device rows (promise H)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The devices that one request carries: a batch of the plan, or a part of one.

    `encoded` are its devices as they go on the wire. `offsets` are their places within the whole batch,
    ascending; `whole` says whether these are all. A part stands for what is left when a refused batch is
    split. `undoes` is the `X-Request-ID` of a transaction that is to be undone as a whole, by its id and
    without a body; it can't be split. `action` is what to do with them, where that is not what the whole
    run does. `is_repeatable` says whether it may be sent again as it is where its answer was lost, if its
    SKU allows that. `clearings` counts how often what an earlier sending may have executed was undone:
    what is sent after that is another request.
    """

    batch_id: int
    account_name: str
    sku_number: str
    encoded: EncodedDevices
    offsets: Sequence[int]
    whole: bool = True
    undoes: str | None = None
    action: Action | None = None
    is_repeatable: bool = True
    clearings: int = 0

    @property
    def part(self) -> str:
        """Name of this part within its batch, as row ranges (`0-49,51`); empty for the whole batch."""
        return "" if self.whole else format_ranges(self.offsets)

    @property
    def devices(self) -> list[EncodedDevice]:
        """Its devices one by one, in the order of `offsets`."""
        return split_devices(self.encoded)

    def take(self, offsets: Iterable[int]) -> Batch:
        """The part of this batch that has only the devices at `offsets`."""
        wanted = sorted(offsets)
        device_at = dict(zip(self.offsets, self.devices, strict=True))
        encoded = ",".join(device_at[offset] for offset in wanted)
        return replace(self, encoded=encoded, offsets=wanted, whole=False)

    @property
    def is_divisible(self) -> bool:
        """Whether its devices can be sent in parts."""
        return len(self.offsets) > 1 and self.undoes is None

    def body(self) -> bytes:
        """The AssignLicenseRequest that carries these devices."""
        return encode_request(self.account_name, self.encoded, self.sku_number)

    def x_request_id(self, run_id: str) -> str:
        """The `X-Request-ID` of these devices in that run: `1-` and 30 digits (promise I).

        The same whenever the same devices of the same batch are sent again in the run, different for any
        other part, batch or run, and after each clearing, as a carrier that executes each id only once
        would not execute it again (up to a collision of 99 bits of SHA-256). To undo a transaction, its own.
        """
        if self.undoes is not None:
            return self.undoes
        cleared = f"/{self.clearings}" if self.clearings else ""
        digest = hashlib.sha256(f"{run_id}/{self.batch_id}/{self.part}{cleared}".encode()).digest()
        return f"1-{int.from_bytes(digest) % 10**30:030d}"


def read_batches(plan: Path, id_kind: IdKind, *, first_batch: int = 1) -> Iterator[Batch]:
    """The batches of a plan in order, from `first_batch` on, a bounded number of rows in memory."""
    for frame in read_whole_batches(plan, first_batch=first_batch):
        heads = _heads(frame, _encoded(id_kind).str.join(",", ignore_nulls=False).alias("encoded"))
        for batch_id, account, sku, size, encoded, *undoes in heads.iter_rows():
            yield Batch(batch_id, account, sku, encoded, range(size), True, *undoes)  # noqa: FBT003 - whole


def read_whole_batches(plan: Path, *, first_batch: int = 1) -> Iterator[pl.DataFrame]:
    """The rows of a plan's batches in order, in frames of about ROWS_PER_READ that no batch crosses."""
    import polars as pl  # noqa: PLC0415 - heavy: only when a plan is really read

    rows = pl.scan_parquet(plan)
    before = (pl.col("batch_id") < first_batch).sum().alias("before")
    total, start = rows.select(pl.col("batch_id").count(), before).collect().row(0)
    while start < total:
        frame = rows.slice(start, min(ROWS_PER_READ, total - start)).collect()
        if start + frame.height < total:  # the last batch may go on beyond this read
            frame = frame.filter(pl.col("batch_id") != frame["batch_id"][-1])
        yield frame
        start += frame.height


def batch_sizes(plan: Path) -> Iterator[tuple[int, str, int]]:
    """Each batch of a plan in order: its id, its account, and how many devices it has."""
    for frame in read_whole_batches(plan):
        yield from _heads(frame).select("batch_id", "account_name", "len").iter_rows()


def read_held(plan: Path) -> Iterator[pl.DataFrame]:
    """The rows of a plan that are in no batch, in order, in frames of ROWS_PER_READ."""
    import polars as pl  # noqa: PLC0415 - as above

    held = pl.scan_parquet(plan).filter(pl.col("batch_id").is_null())
    yield from held.collect_batches(chunk_size=ROWS_PER_READ, maintain_order=True)


def _heads(frame: pl.DataFrame, *also: pl.Expr) -> pl.DataFrame:
    """One row a batch: batch_id, account_name, sku_number, len (in devices), `also`, and what it undoes."""
    import polars as pl  # noqa: PLC0415 - as above
    from polars import selectors  # noqa: PLC0415 - as above

    return frame.group_by("batch_id", maintain_order=True).agg(
        pl.col("account_name", "sku_number").first(),
        pl.len(),
        *also,
        selectors.by_name("undoes", require_all=False).first(),
    )


def _encoded(id_kind: IdKind) -> pl.Expr:
    """Each device as it goes on the wire, with the identifiers that are to be sent."""
    import polars as pl  # noqa: PLC0415 - as above

    identifiers = {
        kind: pl.concat_str(pl.lit('{"id":"'), column, pl.lit(f'","kind":"{kind}"}}'))
        for kind, column in (("IMEI", pl.col("imei")), ("ICCID", pl.col("iccid")))
    }
    sent = {
        IdKind.AUTO: pl.coalesce(identifiers["IMEI"], identifiers["ICCID"]),
        IdKind.IMEI: identifiers["IMEI"],
        IdKind.ICCID: identifiers["ICCID"],
        IdKind.BOTH: pl.concat_str(identifiers["IMEI"], identifiers["ICCID"], separator=","),
    }[id_kind]
    return pl.concat_str(pl.lit('{"deviceIds":['), sent, pl.lit("]}"))


def format_ranges(offsets: Sequence[int]) -> str:
    """Ascending numbers as ranges: `[0, 1, 2, 5]` is `0-2,5`."""
    ranges: list[list[int]] = []
    for offset in offsets:
        if ranges and offset == ranges[-1][1] + 1:
            ranges[-1][1] = offset
        else:
            ranges.append([offset, offset])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def parse_ranges(text: str) -> list[int]:
    """The numbers that `format_ranges` wrote."""
    offsets: list[int] = []
    for piece in filter(None, text.split(",")):
        low, _, high = piece.partition("-")
        offsets.extend(range(int(low), int(high or low) + 1))
    return offsets


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanGroup:
    """The part of a plan that goes under one SKU of one account, in devices and batches."""

    account_name: str
    sku_number: str
    devices: int
    batches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `write_plan` found and wrote; `rows_read` is the sum of `rejected` and `planned` (promise A).

    `planned` is the sum of `held`, by status, and of the devices in `groups`.
    """

    sources: tuple[Source, ...]
    rows_read: int
    rejected: Mapping[str, int]
    planned: int
    held: Mapping[str, int]
    batches: int
    groups: tuple[PlanGroup, ...]
    notes: tuple[str, ...]


def write_plan(
    inventories: Sequence[str],
    options: ReadOptions,
    *,
    batch_size: int,
    folder: Path,
    known: Known | None = None,
) -> Plan:
    """Read the inventories; write plan.parquet and rejects.parquet into `folder`, each whole or not at all.

    plan.parquet: `batch_id` (UInt32, ascending from 1), `source` (the inventory's name as given), `row`
    (UInt64, its 1-based data row), `imei`, `iccid` (String, null where absent), `account_name`, `sku_number`;
    sorted by account, SKU, IMEI and ICCID (nulls last); a batch is a contiguous range of at most
    `batch_size` rows of one account and SKU. `held` is null there. Rows that, by what is `known`, are not to
    be sent come after all batches, with a null `batch_id` and the status that they have for it as `held`. All
    depends on inventories, options and what is known alone (promise I).
    rejects.parquet: `source`, `row`, `reason`, `message`, and `imei`, `iccid`, `account_name`, `sku_number`
    as they stood in the file.

    Raises InventoryError where an inventory can't be read, UsageError where the options contradict it.
    """
    from batchlic.reader.fleet import Fleet  # noqa: PLC0415 - brings polars
    from batchlic.reader.known import HELD, Fate  # noqa: PLC0415
    from batchlic.reader.sources import expanded  # noqa: PLC0415

    with scratch_in(folder) as scratch:
        fleet = Fleet(options, scratch)
        for name in expanded(inventories):
            fleet.add(name)
        fleet.reject_twins()
        if known is not None:
            fleet.hold(known)
        groups = tuple(
            PlanGroup(**asdict(target), devices=devices, batches=-(-devices // batch_size))
            for target, devices in fleet.targets().items()
        )
        with replacing(folder / "plan.parquet") as path:
            devices = [fleet.devices(Fate.SENT), *([fleet.devices(*HELD)] if fleet.held else [])]
            _sink_plan(chain.from_iterable(devices), groups, batch_size, path)
        with replacing(folder / "rejects.parquet") as path:
            fleet.rejects().sink_parquet(path)
    return Plan(
        sources=tuple(fleet.sources),
        rows_read=fleet.rows_read,
        rejected=dict(sorted(fleet.rejected.items())),
        planned=sum(group.devices for group in groups) + fleet.held.total(),
        held=dict(sorted(fleet.held.items())),
        batches=sum(group.batches for group in groups),
        groups=tuple(group for group in groups if group.devices),
        notes=tuple(fleet.notes),
    )


def cut_plan(plan: Plan, fits: Sequence[int], *, batch_size: int, folder: Path) -> Plan:
    """Leave the first `fits[i]` devices of each group i in plan.parquet; the others go to rejects.parquet.

    Their reason is `no_licence`. Batches are numbered anew, so the result depends on plan and `fits` alone;
    what is held stays held.
    """
    import polars as pl  # noqa: PLC0415

    rows = pl.scan_parquet(folder / "plan.parquet")
    rejects = pl.scan_parquet(folder / "rejects.parquet")
    kept, cut, groups = [], [], []
    start = dropped = 0
    for group, fit in zip(plan.groups, fits, strict=True):
        kept.append(rows.slice(start, fit).with_columns(pl.col("batch_id") - pl.lit(dropped, pl.UInt32)))
        cut.append(rows.slice(start + fit, group.devices - fit))
        groups.append(replace(group, devices=fit, batches=-(-fit // batch_size)))
        start += group.devices
        dropped += group.batches - groups[-1].batches
    kept.append(rows.slice(start))
    said = {"reason": pl.lit("no_licence"), "message": pl.lit("no licence is left for this device")}
    without = pl.concat(cut).with_columns(**said).select(rejects.collect_schema().names())
    with replacing(folder / "rejects.parquet") as path:
        pl.concat([rejects, without]).sink_parquet(path)
    with replacing(folder / "plan.parquet") as path:
        pl.concat(kept).sink_parquet(path, compression_level=1, row_group_size=ROWS_PER_READ)
    without_licence = sum(group.devices for group in plan.groups) - sum(fits)
    return replace(
        plan,
        rejected=dict(sorted({**plan.rejected, "no_licence": without_licence}.items())),
        planned=plan.planned - without_licence,
        batches=sum(group.batches for group in groups),
        groups=tuple(group for group in groups if group.devices),
    )


def _sink_plan(
    devices: Iterator[pl.DataFrame], groups: Sequence[PlanGroup], batch_size: int, path: Path
) -> None:
    """Number the batches of sorted devices, turn identifiers into text, and write the rows as they come."""
    import polars as pl  # noqa: PLC0415

    from batchlic.reader.rules import iccid_digits, imei_digits  # noqa: PLC0415
    from batchlic.reader.spool import streamed  # noqa: PLC0415

    rank = pl.col("rank")
    group_starts = pl.lit(pl.Series(accumulate((group.devices for group in groups), initial=0))).gather(rank)
    batch_starts = pl.lit(pl.Series(accumulate((group.batches for group in groups), initial=1))).gather(rank)
    of_group = {
        column: pl.lit(pl.Series([getattr(group, column) for group in groups], dtype=pl.String)).gather(rank)
        for column in ("account_name", "sku_number")
    }

    def numbered() -> Iterator[pl.DataFrame]:
        start = 0
        for frame in devices:
            place = pl.int_range(start, start + frame.height, dtype=pl.Int64) - group_starts
            batch_id = pl.when(pl.col("held").is_null()).then(batch_starts + place // batch_size)
            yield frame.select(
                batch_id.cast(pl.UInt32).alias("batch_id"), "source", "row", *_NUMBERS, "held", **of_group
            )
            start += frame.height

    columns: dict[str, PolarsDataType] = {"batch_id": pl.UInt32, "source": pl.String, "row": pl.UInt32}
    columns |= {**dict.fromkeys(_NUMBERS, pl.Int64), **dict.fromkeys(("held", *of_group), pl.String)}

    streamed(numbered(), columns).select(
        "batch_id",
        "source",
        pl.col("row").cast(pl.UInt64),
        imei_digits(pl.col("imei_number")).alias("imei"),
        iccid_digits(pl.col("iccid_number")).alias("iccid"),
        *of_group,
        "held",
    ).sink_parquet(path, compression_level=1, row_group_size=ROWS_PER_READ)


_NUMBERS = ("imei_number", "iccid_number")
