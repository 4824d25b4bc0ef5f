"""The row of a migrated device follows from the states of its steps."""

from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchlic.chunker import DeviceStatus
from batchlic.ledger.records import ledger_records
from batchlic.writer.callback_outcomes import OUTCOMES, read_outcomes
from batchlic.writer.device_states import device_states
from batchlic.writer.results import write_results
from tests.writer.builders import JournaledAttempt, journal_of, plan_of

OLD, NEW = "SIMSec-IoT", "TS-BUNDLE-KTO-SIMSEC-MRC"
ANSWERS: dict[str | None, list[tuple[str | None, bool]]] = {
    None: [],
    "pending": [("throttled", False)],
    "in_doubt": [(None, False)],
    "accepted": [("accepted", False)],
    "failed": [("refused", True)],
}
"""By state of a step, answers that lead to this state."""

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NAMES = ("unassign", "assign", "restore")
GOOD_MOVE = {"unassign": "accepted", "assign": "accepted"}


def rows_of(
    folder: Path,
    steps: list[dict[str, str]],
    *,
    called_back: list[dict[str, str]] | None = None,
    restorable: tuple[str, ...] = (),
    batches: int = 1,
) -> pl.DataFrame:
    """Devices of the last batch of a migration, by the states of their steps; requests in the order given.

    `called_back` are the outcomes of each device's steps that callbacks report.
    """
    attempts = [
        JournaledAttempt(
            batches,
            [offset],
            outcome,
            final=final,
            step=name,
            error_code="BAD" if outcome == "refused" else None,
        )
        for offset, of_device in enumerate(steps)
        for name, state in of_device.items()
        for outcome, final in ANSWERS[state]
    ]
    sizes = [1] * (batches - 1) + [len(steps)]
    journal = journal_of(attempts, sizes, to_sku=NEW, restorable=list(restorable))
    path = folder / "results.parquet"
    plan = plan_of(folder / "plan.parquet", sizes)
    outcomes = [
        {"plan_row": batches - 1 + offset, "step": name, "status": status, "settled_at": NOON}
        for offset, of_device in enumerate(called_back or ())
        for name, status in of_device.items()
    ]
    pl.DataFrame(outcomes, OUTCOMES).write_parquet(folder / "outcomes.parquet")
    counts = write_results(path, device_states(plan, journal, read_outcomes(folder / "outcomes.parquet")))
    assert sum(counts.values()) == sum(sizes)
    return pl.read_parquet(path).filter(batch_id=batches)


def row_of(folder: Path, steps: dict[str, str], restorable: tuple[str, ...] = ()) -> dict[str, Any]:
    return rows_of(folder, [steps], restorable=restorable).row(0, named=True)


def test_a_moved_device_shows_the_request_that_gave_the_new_license(
    tmp_path: Path,
) -> None:
    for order in (("unassign", "assign"), ("assign", "unassign")):
        row = row_of(tmp_path, dict.fromkeys(order, "accepted"))
        assert (row["action"], row["from_sku"], row["sku_number"]) == ("migrate", OLD, NEW)
        assert (row["status"], row["step"], row["attempts"]) == ("accepted", "assign", 2)
        assert (row["unassign_status"], row["assign_status"]) == ("accepted", "accepted")
        assert row["restore_status"] is None
        assert row["error_message"] is None
        assert row["x_request_id"] == f"1-{order.index('assign') + 1:03}"
        assert row["first_attempt_at"] < row["last_attempt_at"]


STRANDED = {"unassign": "accepted", "assign": "failed"}
DOUBLED = {"assign": "accepted", "unassign": "failed"}


@pytest.mark.parametrize(
    ("steps", "restorable", "expected"),
    [
        ({}, (), ("pending", None, None)),
        ({"unassign": "pending"}, (), ("pending", "unassign", None)),
        ({"unassign": "accepted"}, (), ("pending", "unassign", None)),
        ({"assign": "accepted", "unassign": "pending"}, (), ("pending", "unassign", None)),
        ({"assign": "in_doubt"}, (), ("in_doubt", "assign", None)),
        ({"assign": "accepted", "unassign": "in_doubt"}, (), ("in_doubt", "unassign", None)),
        ({"assign": "failed"}, (), ("failed", "assign", "still has its old license: BAD")),
        ({"unassign": "failed"}, (), ("failed", "unassign", "still has its old license: BAD")),
        (STRANDED, (), ("failed", "assign", "holds no license (not confirmed): BAD")),
        (DOUBLED, (), ("failed", "unassign", "holds both licenses (not confirmed): BAD")),
        (STRANDED, (OLD,), ("pending", "assign", "holds no license (not confirmed): BAD")),
        (DOUBLED, (OLD,), ("failed", "unassign", "holds both licenses (not confirmed): BAD")),
        (DOUBLED, (OLD, NEW), ("pending", "unassign", "holds both licenses (not confirmed): BAD")),
        (
            {**STRANDED, "restore": "accepted"},
            (OLD,),
            ("failed", "assign", "has its old license back (not confirmed): BAD"),
        ),
        (
            {**STRANDED, "restore": "failed"},
            (OLD,),
            (
                "failed",
                "assign",
                "holds no license, and could not be given the old one back (not confirmed): BAD",
            ),
        ),
        ({**STRANDED, "restore": "in_doubt"}, (OLD,), ("in_doubt", "restore", None)),
        (
            {**DOUBLED, "restore": "accepted"},
            (OLD, NEW),
            ("failed", "unassign", "has only its old license again (not confirmed): BAD"),
        ),
    ],
)
def test_the_message_names_the_licenses_that_a_device_holds(
    tmp_path: Path, steps: dict[str, str], restorable: tuple[str, ...], expected: tuple[str | None, ...]
) -> None:
    row = row_of(tmp_path, steps, restorable)
    assert (row["status"], row["step"], row["error_message"]) == expected
    assert [row[f"{name}_status"] for name in NAMES] == [steps.get(name) for name in NAMES]


def test_a_every_device_has_one_row_whatever_its_steps_are(tmp_path: Path) -> None:
    steps = [
        {name: state for name, state in zip(NAMES, states, strict=True) if state}
        for states in product(ANSWERS, repeat=3)
    ]
    rows = rows_of(tmp_path, steps, restorable=(OLD, NEW), batches=3)
    assert rows["row"].to_list() == list(range(3, 3 + len(steps)))
    assert set(rows["status"]) <= {status.value for status in DeviceStatus}
    in_doubt = ["in_doubt" in of_device.values() for of_device in steps]
    assert (rows["status"] == "in_doubt").to_list() == in_doubt
    has_moved = [of_device | GOOD_MOVE == of_device for of_device in steps]
    assert (rows["status"] == "accepted").to_list() == [
        moved and not doubt and of_device.get("restore") != "accepted"
        for of_device, moved, doubt in zip(steps, has_moved, in_doubt, strict=True)
    ]


STATES_AND_CALLBACKS = [
    (state, outcome)
    for state in ANSWERS
    for outcome in ([None, "confirmed", "failed"] if state in {"accepted", "in_doubt"} else [None])
]
"""The state of a step by its answers, and the outcome that a callback reports."""

HOLDS = {
    (True, False): "still has its old license: BAD",
    (False, False): "holds no license: BAD",
    (True, True): "holds both licenses: BAD",
}
"""The message, by whether the device has the old license, and whether it has the new one."""


@pytest.mark.parametrize("restorable", [(), (OLD, NEW)])
def test_callbacks_about_either_step_decide_what_the_device_holds(
    tmp_path: Path, restorable: tuple[str, ...]
) -> None:
    both = list(product(STATES_AND_CALLBACKS, repeat=2))
    steps = [{n: s for n, (s, _) in zip(NAMES, one, strict=False) if s} for one in both]
    outcomes = [{n: o for n, (_, o) in zip(NAMES, one, strict=False) if o} for one in both]
    rows = rows_of(tmp_path, steps, called_back=outcomes, restorable=restorable, batches=2)
    for row, answered, called_back in zip(rows.to_dicts(), steps, outcomes, strict=True):
        known = answered | called_back
        good = [known.get(name) in {"accepted", "confirmed"} for name in ("unassign", "assign")]
        if "in_doubt" in known.values():
            expected = "in_doubt"
        elif all(good):
            expected = "confirmed" if set(known.values()) == {"confirmed"} else "accepted"
        elif "failed" in known.values():
            to_undo = restorable and any(good) and "failed" in answered.values()
            expected = "pending" if to_undo else "failed"
            message = (row["error_message"] or "").replace("refused", "BAD")
            holds = HOLDS[not good[0], good[1]]
            if "accepted" in known.values():
                holds = holds.replace(":", " (not confirmed):")
            assert message == holds, (answered, called_back)
        else:
            expected = "pending"
        assert row["status"] == expected, (answered, called_back)
        assert [row[f"{name}_status"] for name in NAMES] == [known.get(name) for name in NAMES]


@pytest.mark.parametrize(
    ("steps", "states"),
    [
        ({}, {}),
        ({"assign": "failed"}, {}),
        ({"unassign": "accepted"}, {OLD: "unassigned"}),
        ({"assign": "accepted", "unassign": "pending"}, {OLD: "assigned", NEW: "assigned"}),
        ({"assign": "in_doubt"}, {NEW: "in_doubt"}),
        (GOOD_MOVE, {OLD: "unassigned", NEW: "assigned"}),
        (STRANDED, {OLD: "unassigned"}),
        ({"assign": "accepted"}, {OLD: "assigned", NEW: "assigned"}),
        (DOUBLED, {OLD: "assigned", NEW: "assigned"}),
        ({**STRANDED, "restore": "accepted"}, {OLD: "assigned"}),
        ({**STRANDED, "restore": "in_doubt"}, {OLD: "in_doubt"}),
        ({**STRANDED, "restore": "failed"}, {OLD: "unassigned"}),
        ({**DOUBLED, "restore": "accepted"}, {NEW: "unassigned"}),
    ],
)
def test_the_ledger_records_both_skus(tmp_path: Path, steps: dict[str, str], states: dict[str, str]) -> None:
    rows_of(tmp_path, [steps], restorable=(OLD, NEW))
    records = pl.concat(
        [
            pl.DataFrame(schema=["sku_number", "state"]),
            *(
                frame.select("sku_number", pl.col("state").cast(pl.String))
                for frame in ledger_records([pl.read_parquet(tmp_path / "results.parquet")])
            ),
        ],
        how="vertical_relaxed",
    )
    assert dict(records.iter_rows()) == states


def test_the_ledger_record_of_the_new_sku_names_its_request(tmp_path: Path) -> None:
    rows_of(tmp_path, [GOOD_MOVE])
    records = pl.concat(ledger_records([pl.read_parquet(tmp_path / "results.parquet")]))
    assert dict(records.select("sku_number", "x_request_id").iter_rows()) == {OLD: None, NEW: "1-002"}


@pytest.mark.parametrize(
    ("order", "step", "holds", "states"),
    [
        (("unassign", "assign"), "assign", "holds both licenses", {OLD: "assigned", NEW: "assigned"}),
        (("assign", "unassign"), "unassign", "holds no license", {OLD: "unassigned", NEW: "unassigned"}),
    ],
)
def test_a_second_step_after_the_first_was_undone_moves_nothing(
    tmp_path: Path, order: tuple[str, str], step: str, holds: str, states: dict[str, str]
) -> None:
    steps = dict.fromkeys(order, "accepted") | {"restore": "accepted"}
    row = row_of(tmp_path, steps, restorable=(OLD, NEW))
    assert (row["status"], row["step"]) == ("failed", step)
    assert row["error_message"].startswith(f"{holds} (not confirmed): a step took effect after")
    [records] = ledger_records([pl.read_parquet(tmp_path / "results.parquet")])
    assert dict(records.select("sku_number", "state").rows()) == states
