"""The ledger: the newest record of a device counts, whatever runs record and in whatever order."""

from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchlic.chunker import write_plan
from batchlic.ledger import IDENTIFIERS, RECORD_COLUMNS, Ledger, RunEntry, Snapshot
from batchlic.reader.validation.rules import iccid_number, imei_number
from tests.ledger.conftest import Location, NewLedger
from tests.reader.builders import ACCOUNT, JOB, SKU, csv_of, iccid, imei

CARRIER = "https://carrier.example/api"
LIFETIME, OTHER = "SIMSec-IoT-Lt", "TS-BUNDLE-KTO-SIMSEC-MRC"
HALF = settings(max_examples=settings().max_examples // 2)
"""Each example takes a database of its own, on the disk."""


def device_record(device: tuple[int | None, int | None], state: str, sku: str = SKU) -> dict[str, object]:
    """A record of the device with these serial numbers of IMEI and ICCID."""
    return {
        "account_name": ACCOUNT,
        "sku_number": sku,
        "imei": None if device[0] is None else imei(device[0]),
        "iccid": None if device[1] is None else iccid(device[1]),
        "state": state,
        "action": "unassign" if state == "unassigned" else "assign",
        "status": "in_doubt" if state == "in_doubt" else "accepted",
        "x_request_id": "1-0123",
        "request_id": None,
        "at": None,
    }


def frame(records: Iterable[Mapping[str, object]]) -> pl.DataFrame:
    texts = {name: pl.String() for name in ("account_name", "sku_number", "imei", "iccid")}
    rest = {name: kind for name, kind in RECORD_COLUMNS.items() if not name.endswith("_number")}
    return pl.DataFrame(list(records), schema={**texts, **rest}).with_columns(
        imei_number=imei_number(pl.col("imei")), iccid_number=iccid_number(pl.col("iccid"))
    )


def record(ledger: Ledger, run: int, records: Iterable[Mapping[str, object]], carrier: str = CARRIER) -> None:
    """Let a run record its devices; runs began in the order of their numbers."""
    ledger.register(RunEntry(f"{carrier} {run}", carrier, None, run))
    ledger.record(f"{carrier} {run}", [frame(records)])
    ledger.close_run(f"{carrier} {run}")


def planned(
    ledger: Ledger,
    folder: Path,
    devices: Iterable[tuple[int | None, int | None]],
    *,
    sku: str = SKU,
    carrier: str = CARRIER,
    to_sku: str | None = None,
) -> list[str]:
    """For each device in the order given: `sent`, or the status with which the plan excludes it."""
    rows = [("" if a is None else imei(a), "" if b is None else iccid(b), sku) for a, b in devices]
    (folder / "fleet.csv").write_bytes(csv_of(rows, "IMEI,ICCID,SKU"))
    known = Snapshot(ledger, carrier, ledger.last_number, to_sku)
    write_plan([str(folder / "fleet.csv")], JOB, batch_size=3, folder=folder, known_licenses=known)
    return pl.read_parquet(folder / "plan.parquet").sort("row")["held"].fill_null("sent").to_list()


DEVICES = st.sampled_from([(n, n) for n in range(6)] + [(n, None) for n in range(6)])
STATES = st.sampled_from(["assigned", "unassigned", "in_doubt"])
HISTORY = st.lists(
    st.tuples(st.integers(1, 4), st.dictionaries(st.integers(0, 5), st.tuples(st.booleans(), STATES))),
    max_size=8,
)


@HALF
@given(HISTORY)
def test_a_plan_leaves_out_what_the_newest_run_recorded_as_assigned(
    tmp_path_factory: pytest.TempPathFactory,
    new_ledger: NewLedger,
    history: list[tuple[int, dict[int, tuple[bool, str]]]],
) -> None:
    folder = tmp_path_factory.mktemp("history")
    recorded: dict[int, dict[int, str]] = {}
    with closing(Ledger(new_ledger())) as ledger:
        for run, records in history:  # in any order and repeatedly: what a run recorded last counts
            record(
                ledger,
                run,
                [device_record((n, n if both else None), state) for n, (both, state) in records.items()],
            )
            recorded[run] = {n: state for n, (_, state) in records.items()}
        newest = {n: state for run in sorted(recorded) for n, state in recorded[run].items()}
        statuses = {"assigned": "skipped", "in_doubt": "in_doubt"}
        expected = [statuses.get(newest.get(n, ""), "sent") for n in range(6)]
        assert planned(ledger, folder, [(n, None) for n in range(6)]) == expected
        latest = ledger.latest(CARRIER, ACCOUNT, SKU) if newest else frame([])
        assert latest.height == len(newest)
        assert sorted(latest["state"]) == sorted(newest.values())


@pytest.mark.parametrize("device", [(1, None), (None, 1), (1, 1)])
@pytest.mark.parametrize("known_by", [(1, 1), (1, None), (None, 1)])
def test_a_device_is_known_by_either_identifier(
    tmp_path: Path,
    location: Location,
    known_by: tuple[int | None, int | None],
    device: tuple[int | None, int | None],
) -> None:
    shares = any(a == b is not None for a, b in zip(known_by, device, strict=True))
    with closing(Ledger(location)) as ledger:
        record(ledger, 1, [device_record(known_by, "assigned")])
        assert planned(ledger, tmp_path, [device]) == ["skipped" if shares else "sent"]


@pytest.mark.parametrize(("taken_by", "asked_by"), [((1, None), (None, 1)), ((None, 1), (1, None))])
@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_a_record_of_one_identifier_is_completed_by_another_run(
    tmp_path: Path,
    location: Location,
    order: tuple[int, int],
    taken_by: tuple[int | None, int | None],
    asked_by: tuple[int | None, int | None],
) -> None:
    records = {
        1: [device_record((n, n), "assigned") for n in (1, 2)],
        2: [device_record(taken_by, "unassigned")],
    }
    with closing(Ledger(location)) as ledger:
        for run in order:
            record(ledger, run, records[run])
        assert planned(ledger, tmp_path, [asked_by, (2, 2)]) == ["sent", "skipped"]
        assert sorted(ledger.latest(CARRIER, ACCOUNT, SKU)["state"]) == ["assigned", "unassigned"]


def test_a_sim_that_moved_leads_to_no_second_license(tmp_path: Path, location: Location) -> None:
    with closing(Ledger(location)) as ledger:
        record(ledger, 1, [device_record((1, 1), "assigned")])
        record(ledger, 2, [device_record((2, 1), "unassigned")])
        assert planned(ledger, tmp_path, [(1, None), (2, None), (None, 1)]) == ["skipped", "sent", "sent"]
        assert planned(ledger, tmp_path, [(1, 1)]) == ["skipped"]


@pytest.mark.parametrize("sku", [SKU, LIFETIME])
def test_d_a_device_in_doubt_is_excluded_from_other_runs(
    tmp_path: Path, location: Location, sku: str
) -> None:
    with closing(Ledger(location)) as ledger:
        record(ledger, 1, [device_record((1, 1), "in_doubt", sku)])
        assert planned(ledger, tmp_path, [(1, 1), (2, 2)], sku=sku) == ["in_doubt", "sent"]


def test_carriers_accounts_and_skus_do_not_mix(tmp_path: Path, location: Location) -> None:
    with closing(Ledger(location)) as ledger:
        record(ledger, 1, [device_record((1, 1), "assigned")], carrier="sandbox")
        assert planned(ledger, tmp_path, [(1, 1)]) == ["sent"]
        assert planned(ledger, tmp_path, [(1, 1)], carrier="sandbox") == ["skipped"]
        assert planned(ledger, tmp_path, [(1, 1)], carrier="sandbox", sku=LIFETIME) == ["sent"]


def test_excluded_devices_come_after_all_batches(tmp_path: Path, location: Location) -> None:
    with closing(Ledger(location)) as ledger:
        record(ledger, 1, [device_record((n, n), "assigned") for n in range(0, 20, 2)])
        planned(ledger, tmp_path, [(n, n) for n in range(20)])
    plan = pl.read_parquet(tmp_path / "plan.parquet")
    assert plan["batch_id"].to_list() == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, *[None] * 10]
    assert plan["imei"].to_list() == [imei(n) for n in [*range(1, 20, 2), *range(0, 20, 2)]]


def newer(ledger: Ledger, after: int) -> set[int]:
    """Serial numbers of the devices with a record newer than that number."""
    serials = {frame([device_record((n, n), "assigned")])["imei_number"][0]: n for n in range(6)}
    found = ledger.run_records(CARRIER, [(ACCOUNT, SKU)], ("imei_number",), after=after)
    return {serials[number] for newer in found for number in newer.records["imei_number"]}


@HALF
@given(st.lists(st.dictionaries(st.integers(0, 5), st.tuples(STATES, st.integers(1, 2))), max_size=6))
def test_a_repeated_record_is_new_only_where_it_changed(
    new_ledger: NewLedger, recordings: list[dict[int, tuple[str, int]]]
) -> None:
    with closing(Ledger(new_ledger())) as ledger:
        before: dict[int, tuple[str, int]] = {}
        for records in recordings:
            number = ledger.last_number
            at = {n: datetime.fromtimestamp(hour * 3600, UTC) for n, (_, hour) in records.items()}
            record(
                ledger, 1, [device_record((n, n), state) | {"at": at[n]} for n, (state, _) in records.items()]
            )
            new = {n for n, now in records.items() if before.get(n) != now}
            retracted = {n for n, (state, _) in before.items() if state == "unassigned" and n not in records}
            assert newer(ledger, number) == new | retracted
            assert (ledger.latest(CARRIER, ACCOUNT, SKU).height if ledger.scopes() else 0) == len(records)
            before = records


def test_records_keep_their_numbers_when_another_frame_is_empty(location: Location) -> None:
    frames = [frame([device_record((n, n), "assigned")]) for n in range(3)]
    with closing(Ledger(location)) as ledger:
        ledger.register(RunEntry("run", CARRIER, None, 1))
        ledger.record("run", frames)
        number = ledger.last_number
        ledger.record("run", [frames[0], frame([]), frames[2]])
        assert newer(ledger, number) == set()
        assert ledger.latest(CARRIER, ACCOUNT, SKU).height == 2


def test_a_confirmed_record_replaces_an_accepted_one(location: Location) -> None:
    with closing(Ledger(location)) as ledger:
        for status in ("accepted", "confirmed"):
            record(ledger, 1, [device_record((1, 1), "assigned") | {"status": status}])
        assert ledger.latest(CARRIER, ACCOUNT, SKU)["status"].to_list() == ["confirmed"]


def test_a_run_is_open_until_it_is_closed(location: Location) -> None:
    with closing(Ledger(location)) as ledger:
        entry = RunEntry("run-1", CARRIER, "/runs/1", 5)
        ledger.register(entry)
        assert ledger.open_entries(CARRIER) == [entry]
        assert ledger.open_entries("sandbox") == []
        assert ledger.close_run("run-1")
        assert ledger.open_entries(CARRIER) == []
        ledger.register(RunEntry("run-1", CARRIER, "/runs/1", 99))  # resumed: as old as it was
        assert ledger.open_entries(CARRIER) == [entry]
        assert not ledger.close_run("run-2")


def test_a_resumed_run_is_found_in_its_new_folder(location: Location) -> None:
    with closing(Ledger(location)) as ledger:
        for folder in (None, "/here", "/there"):  # imported, resumed, moved
            ledger.register(RunEntry("run-1", CARRIER, folder, 5))
        assert ledger.open_entries(CARRIER) == [RunEntry("run-1", CARRIER, "/there", 5)]


def test_a_new_run_is_the_newest_even_if_the_clock_went_back(location: Location) -> None:
    with closing(Ledger(location)) as ledger:
        for run, (begun_at, state) in enumerate([(900, "assigned"), (100, "unassigned"), (50, "assigned")]):
            ledger.register(RunEntry(f"{run}", CARRIER, "/runs", begun_at), planned_after=0)
            ledger.record(f"{run}", [frame([device_record((1, 1), state)])])
            assert ledger.latest(CARRIER, ACCOUNT, SKU)["state"].to_list() == [state]


def test_a_run_that_sent_nothing_completes_other_records(tmp_path: Path, location: Location) -> None:
    pairs = frame([device_record((n, n), "assigned") for n in (1, 7)]).select("imei_number", "iccid_number")
    with closing(Ledger(location)) as ledger:
        record(ledger, 1, [device_record((1, None), "assigned"), device_record((2, None), "assigned")])
        ledger.register(RunEntry("second", CARRIER, None, 2))
        assert ledger.record("second", [], lambda: [pairs]) == 0
        assert planned(ledger, tmp_path, [(None, 1), (None, 2), (2, None)]) == ["skipped", "sent", "skipped"]


PAIRINGS = st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 9)), st.booleans()), max_size=12)


@HALF
@given(PAIRINGS, PAIRINGS)
@example([(1, True)], [(1, False)])
@example([(1, False)], [(1, True)])
def test_the_order_in_which_two_runs_record_does_not_matter(
    new_ledger: NewLedger,
    first: list[tuple[int | None, bool]],
    second: list[tuple[int | None, bool]],
) -> None:
    records = {
        run: [
            device_record((n, n if both else None) if n is not None else (None, 50 + place), "assigned")
            for place, (n, both) in enumerate(dict(devices).items())
        ]
        for run, devices in ((1, first), (2, second))
    }
    known = []
    for order in ((1, 2), (2, 1)):
        with closing(Ledger(new_ledger())) as ledger:
            for run in order:
                record(ledger, run, records[run])
            latest = ledger.latest(CARRIER, ACCOUNT, SKU) if first or second else frame([])
            known.append(latest.select("imei_number", "iccid_number").sort(pl.all()).rows())
    assert known[0] == known[1]


def test_a_recording_that_fails_changes_nothing(tmp_path: Path, location: Location) -> None:
    def interrupted() -> Iterable[pl.DataFrame]:
        yield frame([device_record((2, 2), "assigned")])
        raise OSError("the disk is gone")

    with closing(Ledger(location)) as ledger:
        record(ledger, 1, [device_record((1, 1), "assigned")])
        with pytest.raises(OSError, match="the disk is gone"):
            ledger.record(f"{CARRIER} 1", interrupted())
        assert planned(ledger, tmp_path, [(1, 1), (2, 2)]) == ["skipped", "sent"]


@pytest.mark.parametrize(
    ("new", "old", "status"),
    [
        (None, None, "sent"),
        (None, "assigned", "sent"),
        (None, "in_doubt", "in_doubt"),
        ("unassigned", "assigned", "sent"),
        ("in_doubt", "assigned", "in_doubt"),
        ("assigned", None, "skipped"),
        ("assigned", "unassigned", "skipped"),
        ("assigned", "in_doubt", "in_doubt"),
        ("assigned", "assigned", "failed"),
    ],
)
def test_a_device_with_the_new_license_does_not_get_it_again(
    tmp_path: Path, location: Location, new: str | None, old: str | None, status: str
) -> None:
    with closing(Ledger(location)) as ledger:
        states = [(new, OTHER), (old, SKU)]
        record(ledger, 1, [device_record((1, 1), state, sku) for state, sku in states if state])
        assert planned(ledger, tmp_path, [(1, None), (2, 2)], to_sku=OTHER) == [status, "sent"]


def test_a_new_lifetime_license_in_doubt_is_excluded(tmp_path: Path, location: Location) -> None:
    with closing(Ledger(location)) as ledger:
        record(ledger, 1, [device_record((1, 1), "in_doubt", LIFETIME), device_record((1, 1), "assigned")])
        assert planned(ledger, tmp_path, [(1, 1)], to_sku=LIFETIME) == ["in_doubt"]


def test_a_completed_record_is_new_to_all_runs_but_the_one_that_did(location: Location) -> None:
    with closing(Ledger(location)) as ledger:
        record(ledger, 1, [device_record((1, None), "assigned"), device_record((2, None), "assigned")])
        before = ledger.last_number
        record(ledger, 2, [device_record((1, 1), "assigned", OTHER)])
        for _ in range(2):  # recorded again unchanged, it is found again
            [newer_records] = ledger.run_records(
                CARRIER, [(ACCOUNT, SKU)], IDENTIFIERS, after=before, not_completed_by=f"{CARRIER} 3"
            )
            assert newer_records.records.equals(
                frame([device_record((1, 1), "assigned")]).select(IDENTIFIERS)
            )
            assert not list(
                ledger.run_records(CARRIER, [(ACCOUNT, SKU)], after=before, not_completed_by=f"{CARRIER} 2")
            )
            record(ledger, 1, [device_record((1, None), "assigned"), device_record((2, None), "assigned")])


def pairs_of(ledger: Ledger, run: int) -> list[tuple[object, ...]]:
    """The identifiers in the records of a run."""
    found = ledger.run_records(CARRIER, [(ACCOUNT, SKU)], IDENTIFIERS)
    return [row for one in found if one.entry.run_id == f"{CARRIER} {run}" for row in one.records.rows()]


def identifiers(*devices: tuple[int | None, int | None]) -> list[tuple[object, ...]]:
    return frame(device_record(device, "assigned") for device in devices).select(IDENTIFIERS).rows()


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_pair_of_the_newest_run_completes_a_record(location: Location, order: tuple[int, int]) -> None:
    with closing(Ledger(location)) as ledger:
        for run in order:  # the SIM of device 1 was replaced; runs may record in any order
            record(ledger, run, [device_record((1, run), "assigned", OTHER)])
        record(ledger, 3, [device_record((1, None), "assigned")])
        assert pairs_of(ledger, 3) == identifiers((1, 2))


def test_pairs_of_one_run_complete_a_record_once(location: Location) -> None:
    with closing(Ledger(location)) as ledger:
        record(ledger, 1, [device_record((1, None), "assigned")])
        ledger.register(RunEntry("second", CARRIER, None, 2))
        pairs = frame(device_record((1, sim), "assigned") for sim in (1, 2)).select(IDENTIFIERS)
        ledger.record("second", [], lambda: [pairs])
        assert pairs_of(ledger, 1) == identifiers((1, 1))


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_pairs_of_another_carrier_complete_nothing(location: Location, order: tuple[int, int]) -> None:
    known = {1: ((1, None), CARRIER), 2: ((1, 1), "sandbox")}
    with closing(Ledger(location)) as ledger:
        for run in order:
            device, carrier = known[run]
            record(ledger, run, [device_record(device, "assigned")], carrier=carrier)
        assert pairs_of(ledger, 1) == identifiers((1, None))


def test_a_second_identifier_that_a_run_itself_learns_is_new(location: Location) -> None:
    with closing(Ledger(location)) as ledger:
        record(ledger, 1, [device_record((1, None), "assigned")])
        before = ledger.last_number
        record(ledger, 1, [device_record((1, 1), "assigned")])
        targets = [(ACCOUNT, SKU)]
        newer_records = ledger.run_records(
            CARRIER, targets, IDENTIFIERS, after=before, not_completed_by=f"{CARRIER} 1"
        )
        assert [found.records.rows() for found in newer_records] == [identifiers((1, 1))]


def test_rows_that_a_file_repeats_do_not_multiply(location: Location) -> None:
    repeated = [device_record((1, 1), "assigned")] * 2
    with closing(Ledger(location)) as ledger:
        for _ in range(3):
            record(ledger, 1, repeated)
        assert pairs_of(ledger, 1) == identifiers((1, 1), (1, 1))


def test_a_run_that_was_only_imported_is_not_known_by_itself(location: Location) -> None:
    with closing(Ledger(location)) as ledger:
        ledger.register(RunEntry("run", CARRIER, None, 1))
        assert not ledger.has_run("run")
        ledger.register(RunEntry("run", CARRIER, "/runs/run", 1))
        assert ledger.has_run("run")
