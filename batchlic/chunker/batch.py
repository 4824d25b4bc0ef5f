"""Reads a plan as batches: contiguous row ranges of plan.parquet, each carried by one request."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from batchlic.carrier.catalog import Action
from batchlic.carrier.messages import EncodedDevice, EncodedDevices, encode_request, split_devices
from batchlic.chunker.step import Step, StepRequest
from batchlic.reader import IdKind

if TYPE_CHECKING:
    import polars as pl

ROWS_PER_READ = 50_000
"""Rows of plan.parquet that are in memory at once (promise H)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The devices that one request carries: a batch of the plan, or a part of one.

    `encoded` holds the devices as JSON text. `offsets` are the places of the devices within the whole batch,
    ascending; `whole` is true for a batch with all its devices. Parts come from splitting a refused batch.
    `undoes` is the `X-Request-ID` of a request to undo as a whole, without a body; such a batch can't be
    split. `planned_action` is what a sync does with the devices; `request` what a migration does. Both are
    None in other runs, whose action applies.
    """

    batch_id: int
    account_name: str
    sku_number: str
    encoded: EncodedDevices
    offsets: Sequence[int]
    whole: bool = True
    undoes: str | None = None
    planned_action: Action | None = None
    request: StepRequest | None = None

    @property
    def step(self) -> Step | None:
        """The step of a migration for which this batch is sent; None in other runs."""
        return self.request.step if self.request else None

    @property
    def action(self) -> Action | None:
        """What a migration or a sync does with the devices; None in other runs."""
        return self.request.action if self.request else self.planned_action

    @property
    def is_repeatable(self) -> bool:
        """Whether the same request may be sent again after a lost answer, if the SKU allows it."""
        return self.request is None or self.request.is_repeatable

    @property
    def part(self) -> str:
        """Name of this part within its batch, as row ranges (`0-49,51`); empty for the whole batch."""
        return "" if self.whole else format_ranges(self.offsets)

    @property
    def devices(self) -> list[EncodedDevice]:
        """The devices one by one, in the order of `offsets`."""
        return split_devices(self.encoded)

    def take(self, offsets: Iterable[int]) -> Batch:
        """The part of this batch that has only the devices at `offsets`."""
        wanted = sorted(offsets)
        device_at = dict(zip(self.offsets, self.devices, strict=True))
        encoded = ",".join(device_at[offset] for offset in wanted)
        return replace(self, encoded=encoded, offsets=wanted, whole=False)

    @property
    def is_divisible(self) -> bool:
        """Whether the devices can be sent in parts."""
        return len(self.offsets) > 1 and self.undoes is None

    def body(self) -> bytes:
        """The AssignLicenseRequest that carries these devices."""
        return encode_request(self.account_name, self.encoded, self.sku_number)

    def x_request_id(self, run_id: str, *, refusals: int = 0) -> str:
        """The `X-Request-ID` of this request in a run: `1-` and 30 digits (promise I).

        The id is the same whenever the same devices are sent again for the same step. It differs for any
        other part, batch, step or run, up to a collision of 99 bits of SHA-256. It also differs after each
        clearing and after each of the `refusals`, because a carrier that judges each id only once would
        ignore the repetition. A batch that undoes a request has the id of that request.
        """
        if self.undoes is not None:
            return self.undoes
        step = f"/{self.request.step}" if self.request else ""
        clearings = f"/{self.request.clearings}" if self.request and self.request.clearings else ""
        refused = f"/refused {refusals}" if refusals else ""
        name = f"{run_id}/{self.batch_id}/{self.part}{step}{clearings}{refused}"
        return f"1-{int.from_bytes(hashlib.sha256(name.encode()).digest()) % 10**30:030d}"


def read_batches(plan: Path, id_kind: IdKind, *, first_batch: int = 1) -> Iterator[Batch]:
    """The batches of a plan in order, from `first_batch` on. About ROWS_PER_READ rows are in memory."""
    for frame in read_whole_batches(plan, first_batch=first_batch):
        yield from batches_of(frame, id_kind)


def batches_of(frame: pl.DataFrame, id_kind: IdKind) -> Iterator[Batch]:
    """The batches of rows of a plan, which are those of whole batches."""
    devices = _encoded(id_kind, any_known="action" in frame.columns)
    heads = _batch_heads(frame, devices.str.join(",", ignore_nulls=False).alias("encoded"))
    for head in heads.iter_rows(named=True):
        action = head.get("action")
        yield Batch(
            head["batch_id"],
            head["account_name"],
            head["sku_number"],
            head["encoded"],
            range(head["len"]),
            undoes=head.get("undoes"),
            planned_action=action and Action(action),
        )


def phase_ranges(plan: Path) -> list[range]:
    """The ids of the batches of each phase, in order."""
    import polars as pl  # noqa: PLC0415 - slow to import: only when a plan is read

    from batchlic.reader.scans import scan_parquet  # noqa: PLC0415 - as above

    rows = scan_parquet(plan).filter(pl.col("batch_id").is_not_null())
    phase = pl.col("phase") if "phase" in rows.collect_schema() else pl.lit(1).alias("phase")
    batch_id = pl.col("batch_id")
    bounds = rows.group_by(phase).agg(first=batch_id.min(), last=batch_id.max()).sort("first")
    found = bounds.select("first", "last").collect(engine="streaming")
    return [range(first, last + 1) for first, last in found.iter_rows()]


def read_whole_batches(plan: Path, *, first_batch: int = 1) -> Iterator[pl.DataFrame]:
    """The rows of a plan's batches in order, in frames of whole batches with about ROWS_PER_READ rows."""
    import polars as pl  # noqa: PLC0415 - slow to import: only when a plan is read

    from batchlic.reader.scans import scan_parquet  # noqa: PLC0415 - as above

    rows = scan_parquet(plan)
    before = (pl.col("batch_id") < first_batch).sum().alias("before")
    total, start = rows.select(pl.col("batch_id").count(), before).collect().row(0)
    yield from frames_of_batches(rows, start, total)


def frames_of_batches(
    rows: pl.LazyFrame, start: int, stop: int, *, rows_per_read: int = ROWS_PER_READ
) -> Iterator[pl.DataFrame]:
    """The rows of a plan from `start` to `stop`, where batches begin and end, in frames of whole batches.

    A frame has up to `rows_per_read` rows: more than a batch.
    """
    import polars as pl  # noqa: PLC0415 - as above

    while start < stop:
        frame = rows.slice(start, min(rows_per_read, stop - start)).collect()
        if start + frame.height < stop:  # the last batch may have more rows after this frame
            frame = frame.filter(pl.col("batch_id") != frame["batch_id"][-1])
        yield frame
        start += frame.height


def batch_sizes(plan: Path) -> Iterator[tuple[int, str, int]]:
    """Each batch of a plan in order: its id, its account, and its number of devices."""
    for frame in read_whole_batches(plan):
        yield from _batch_heads(frame).select("batch_id", "account_name", "len").iter_rows()


def read_excluded(plan: Path) -> Iterator[pl.DataFrame]:
    """The rows of a plan that are in no batch, in order, in frames of ROWS_PER_READ."""
    import polars as pl  # noqa: PLC0415 - as above

    from batchlic.reader.scans import scan_parquet  # noqa: PLC0415 - as above

    excluded = scan_parquet(plan).filter(pl.col("batch_id").is_null())
    yield from excluded.collect_batches(chunk_size=ROWS_PER_READ, maintain_order=True)


def _batch_heads(frame: pl.DataFrame, *more: pl.Expr) -> pl.DataFrame:
    """One row per batch: `batch_id`, `account_name`, `sku_number`, `len` (devices), and `more`.

    The column `undoes` of a rollback and `action` of a sync are there, too.
    """
    import polars as pl  # noqa: PLC0415 - as above
    from polars import selectors  # noqa: PLC0415 - as above

    return frame.group_by("batch_id", maintain_order=True).agg(
        pl.col("account_name", "sku_number").first(),
        pl.len(),
        *more,
        selectors.by_name("undoes", "action", require_all=False).first(),
    )


def _encoded(id_kind: IdKind, *, any_known: bool) -> pl.Expr:
    """Each device as JSON text, with the identifiers to send.

    `any_known`: a device without them has another one instead. A sync takes devices from the ledger, which
    may not know all identifiers.
    """
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
    if any_known:
        sent = pl.coalesce(sent, *identifiers.values())
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
