"""The ledger: whatever runs tell it, the newest word about a device is what it knows."""

import sqlite3
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchlic.chunker import write_plan
from batchlic.errors import RunFolderError
from batchlic.ledger.ledger import IDENTIFIERS, RECORD_COLUMNS, Entry, Ledger, Snapshot
from batchlic.reader.rules import iccid_number, imei_number
from tests.reader.builders import ACCOUNT, JOB, SKU, csv_of, iccid, imei

CARRIER = "https://carrier.example/api"
LIFETIME, OTHER = "SIMSec-IoT-Lt", "TS-BUNDLE-KTO-SIMSEC-MRC"
HALF = settings(max_examples=settings.get_profile("batchlic").max_examples // 2)
"""Each example takes a database of its own, on the disk."""


def word(device: tuple[int | None, int | None], state: str, sku: str = SKU) -> dict[str, object]:
    """A word about the device with these serial numbers of IMEI and ICCID."""
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
    """Let a run say something; runs began in the order of their numbers."""
    ledger.register(Entry(f"{carrier} {run}", carrier, None, run))
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
    """What a plan makes of each device: `sent`, or the status that it is held with, in the order given."""
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
def test_a_plan_leaves_out_what_the_newest_run_said_is_assigned(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[int, dict[int, tuple[bool, str]]]]
) -> None:
    folder = tmp_path_factory.mktemp("history")
    said: dict[int, dict[int, str]] = {}
    with closing(Ledger(folder / "ledger.db")) as ledger:
        for run, records in history:  # in any order, and again and again: a run's last telling counts
            record(
                ledger, run, [word((n, n if both else None), state) for n, (both, state) in records.items()]
            )
            said[run] = {n: state for n, (_, state) in records.items()}
        newest = {n: state for run in sorted(said) for n, state in said[run].items()}
        fates = {"assigned": "skipped", "in_doubt": "in_doubt"}
        expected = [fates.get(newest.get(n, ""), "sent") for n in range(6)]
        assert planned(ledger, folder, [(n, None) for n in range(6)]) == expected
        latest = ledger.latest(CARRIER, ACCOUNT, SKU) if newest else frame([])
        assert latest.height == len(newest)
        assert sorted(latest["state"]) == sorted(newest.values())


@pytest.mark.parametrize("device", [(1, None), (None, 1), (1, 1)])
@pytest.mark.parametrize("known_by", [(1, 1), (1, None), (None, 1)])
def test_a_device_is_known_by_either_identifier(
    tmp_path: Path, known_by: tuple[int | None, int | None], device: tuple[int | None, int | None]
) -> None:
    shares = any(a == b is not None for a, b in zip(known_by, device, strict=True))
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        record(ledger, 1, [word(known_by, "assigned")])
        assert planned(ledger, tmp_path, [device]) == ["skipped" if shares else "sent"]


@pytest.mark.parametrize(("taken_by", "asked_by"), [((1, None), (None, 1)), ((None, 1), (1, None))])
@pytest.mark.parametrize("told", [(1, 2), (2, 1)])
def test_what_is_said_of_one_identifier_is_said_of_the_other(
    tmp_path: Path,
    told: tuple[int, int],
    taken_by: tuple[int | None, int | None],
    asked_by: tuple[int | None, int | None],
) -> None:
    said = {1: [word((1, 1), "assigned"), word((2, 2), "assigned")], 2: [word(taken_by, "unassigned")]}
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        for run in told:
            record(ledger, run, said[run])
        assert planned(ledger, tmp_path, [asked_by, (2, 2)]) == ["sent", "skipped"]
        assert sorted(ledger.latest(CARRIER, ACCOUNT, SKU)["state"]) == ["assigned", "unassigned"]


def test_a_sim_that_moved_leads_to_no_second_license(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        record(ledger, 1, [word((1, 1), "assigned")])
        record(ledger, 2, [word((2, 1), "unassigned")])
        assert planned(ledger, tmp_path, [(1, None), (2, None), (None, 1)]) == ["skipped", "sent", "sent"]
        assert planned(ledger, tmp_path, [(1, 1)]) == ["skipped"]


@pytest.mark.parametrize("sku", [SKU, LIFETIME])
def test_d_what_a_run_left_in_doubt_is_held_in_others(tmp_path: Path, sku: str) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        record(ledger, 1, [word((1, 1), "in_doubt", sku)])
        assert planned(ledger, tmp_path, [(1, 1), (2, 2)], sku=sku) == ["in_doubt", "sent"]


def test_carriers_accounts_and_skus_do_not_mix(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        record(ledger, 1, [word((1, 1), "assigned")], carrier="sandbox")
        assert planned(ledger, tmp_path, [(1, 1)]) == ["sent"]
        assert planned(ledger, tmp_path, [(1, 1)], carrier="sandbox") == ["skipped"]
        assert planned(ledger, tmp_path, [(1, 1)], carrier="sandbox", sku=LIFETIME) == ["sent"]


def test_held_devices_come_after_all_batches(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        record(ledger, 1, [word((n, n), "assigned") for n in range(0, 20, 2)])
        planned(ledger, tmp_path, [(n, n) for n in range(20)])
    plan = pl.read_parquet(tmp_path / "plan.parquet")
    assert plan["batch_id"].to_list() == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, *[None] * 10]
    assert plan["imei"].to_list() == [imei(n) for n in [*range(1, 20, 2), *range(0, 20, 2)]]


def news(ledger: Ledger, after: int) -> set[int]:
    """Serial numbers of the devices of which something was said after the words of that number."""
    serials = {frame([word((n, n), "assigned")])["imei_number"][0]: n for n in range(6)}
    told = ledger.told(CARRIER, [(ACCOUNT, SKU)], ("imei_number",), after=after)
    return {serials[number] for one in told for number in one.records["imei_number"]}


@HALF
@given(st.lists(st.dictionaries(st.integers(0, 5), st.tuples(STATES, st.integers(1, 2))), max_size=6))
def test_what_is_told_again_is_news_only_where_it_has_changed(
    tmp_path_factory: pytest.TempPathFactory, tellings: list[dict[int, tuple[str, int]]]
) -> None:
    with closing(Ledger(tmp_path_factory.mktemp("news") / "ledger.db")) as ledger:
        before: dict[int, tuple[str, int]] = {}
        for said in tellings:
            number = ledger.last_number
            at = {n: datetime.fromtimestamp(hour * 3600, UTC) for n, (_, hour) in said.items()}
            record(ledger, 1, [word((n, n), state) | {"at": at[n]} for n, (state, _) in said.items()])
            new = {n for n, what in said.items() if before.get(n) != what}
            denied = {n for n, (state, _) in before.items() if state == "unassigned" and n not in said}
            assert news(ledger, number) == new | denied
            assert (ledger.latest(CARRIER, ACCOUNT, SKU).height if ledger.scopes() else 0) == len(said)
            before = said


def test_words_keep_their_numbers_frame_by_frame_though_one_is_empty_now(tmp_path: Path) -> None:
    frames = [frame([word((n, n), "assigned")]) for n in range(3)]
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        ledger.register(Entry("run", CARRIER, None, 1))
        ledger.record("run", frames)
        number = ledger.last_number
        ledger.record("run", [frames[0], frame([]), frames[2]])
        assert news(ledger, number) == set()
        assert ledger.latest(CARRIER, ACCOUNT, SKU).height == 2


def test_what_is_confirmed_is_known_as_confirmed(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        for status in ("accepted", "confirmed"):
            record(ledger, 1, [word((1, 1), "assigned") | {"status": status}])
        assert ledger.latest(CARRIER, ACCOUNT, SKU)["status"].to_list() == ["confirmed"]


def test_a_ledger_made_before_words_kept_their_numbers_is_taken_on(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        record(ledger, 1, [word((1, 1), "assigned")])
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as database:
        database.execute("ALTER TABLE records DROP COLUMN part")
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        assert planned(ledger, tmp_path, [(1, 1)]) == ["skipped"]
        record(ledger, 1, [word((2, 2), "assigned")])
        assert planned(ledger, tmp_path, [(1, 1), (2, 2)]) == ["sent", "skipped"]


def test_a_run_that_has_not_left_is_open_until_it_does(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        entry = Entry("run-1", CARRIER, "/runs/1", 5)
        ledger.register(entry)
        assert ledger.open_entries(CARRIER) == [entry]
        assert ledger.open_entries("sandbox") == []
        assert ledger.close_run("run-1")
        assert ledger.open_entries(CARRIER) == []
        ledger.register(Entry("run-1", CARRIER, "/runs/1", 99))  # goes on: as old as it was
        assert ledger.open_entries(CARRIER) == [entry]
        assert not ledger.close_run("run-2")


def test_a_run_that_goes_on_elsewhere_is_looked_for_there(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        for folder in (None, "/here", "/there"):  # imported, gone on with, moved
            ledger.register(Entry("run-1", CARRIER, folder, 5))
        assert ledger.open_entries(CARRIER) == [Entry("run-1", CARRIER, "/there", 5)]


def test_a_new_run_is_the_newest_though_the_clock_went_back(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        for run, (begun_at, state) in enumerate([(900, "assigned"), (100, "unassigned"), (50, "assigned")]):
            ledger.register(Entry(f"{run}", CARRIER, "/runs", begun_at), planned_after=0)
            ledger.record(f"{run}", [frame([word((1, 1), state)])])
            assert ledger.latest(CARRIER, ACCOUNT, SKU)["state"].to_list() == [state]


def test_identifiers_seen_together_by_a_run_that_sent_nothing_are_known(tmp_path: Path) -> None:
    pairs = frame([word((n, n), "assigned") for n in (1, 7)]).select("imei_number", "iccid_number")
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        record(ledger, 1, [word((1, None), "assigned"), word((2, None), "assigned")])
        ledger.register(Entry("second", CARRIER, None, 2))
        assert ledger.record("second", [], lambda: [pairs]) == 0
        assert planned(ledger, tmp_path, [(None, 1), (None, 2), (2, None)]) == ["skipped", "sent", "skipped"]


PAIRINGS = st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 9)), st.booleans()), max_size=12)


@HALF
@given(PAIRINGS, PAIRINGS)
@example([(1, True)], [(1, False)])
@example([(1, False)], [(1, True)])
def test_the_order_in_which_two_runs_tell_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[tuple[int | None, bool]],
    second: list[tuple[int | None, bool]],
) -> None:
    said = {
        run: [
            word((n, n if both else None) if n is not None else (None, 50 + place), "assigned")
            for place, (n, both) in enumerate(dict(devices).items())
        ]
        for run, devices in ((1, first), (2, second))
    }
    known = []
    for order in ((1, 2), (2, 1)):
        with closing(Ledger(tmp_path_factory.mktemp("order") / "ledger.db")) as ledger:
            for run in order:
                record(ledger, run, said[run])
            latest = ledger.latest(CARRIER, ACCOUNT, SKU) if first or second else frame([])
            known.append(latest.select("imei_number", "iccid_number").sort(pl.all()).rows())
    assert known[0] == known[1]


def test_a_telling_that_fails_changes_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterable[pl.DataFrame]:
        yield frame([word((2, 2), "assigned")])
        raise OSError("the disk is gone")

    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        record(ledger, 1, [word((1, 1), "assigned")])
        with pytest.raises(OSError, match="the disk is gone"):
            ledger.record(f"{CARRIER} 1", interrupted())
        assert planned(ledger, tmp_path, [(1, 1), (2, 2)]) == ["skipped", "sent"]


def test_a_ledger_is_its_owners_alone_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "ledger.db"
    Ledger(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "other.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(RunFolderError, match=r"other\.db is damaged"):
        Ledger(tmp_path / "other.db")


@pytest.mark.parametrize(
    ("new", "old", "fate"),
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
def test_what_has_the_new_license_is_not_given_it_again(
    tmp_path: Path, new: str | None, old: str | None, fate: str
) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        said = [(new, OTHER), (old, SKU)]
        record(ledger, 1, [word((1, 1), state, sku) for state, sku in said if state])
        assert planned(ledger, tmp_path, [(1, None), (2, 2)], to_sku=OTHER) == [fate, "sent"]


def test_a_new_license_for_life_in_doubt_is_held(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        record(ledger, 1, [word((1, 1), "in_doubt", LIFETIME), word((1, 1), "assigned")])
        assert planned(ledger, tmp_path, [(1, 1)], to_sku=LIFETIME) == ["in_doubt"]


def test_identifiers_that_another_run_completes_are_news_to_all_but_that_one(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        record(ledger, 1, [word((1, None), "assigned"), word((2, None), "assigned")])
        before = ledger.last_number
        record(ledger, 2, [word((1, 1), "assigned", OTHER)])
        for _ in range(2):  # said again as it is, it is the same news
            [news] = ledger.told(CARRIER, [(ACCOUNT, SKU)], IDENTIFIERS, after=before, to=f"{CARRIER} 3")
            assert news.records.equals(frame([word((1, 1), "assigned")]).select(IDENTIFIERS))
            assert not list(ledger.told(CARRIER, [(ACCOUNT, SKU)], after=before, to=f"{CARRIER} 2"))
            record(ledger, 1, [word((1, None), "assigned"), word((2, None), "assigned")])


def test_an_unassign_that_an_older_version_told_is_news_once_it_is_taken_back(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        record(ledger, 1, [word((n, n), "unassigned") for n in (1, 2)])
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as database, database:
            database.execute("UPDATE records SET part = NULL")
        before = ledger.last_number
        record(ledger, 1, [word((2, 2), "unassigned")])
        news = [told.records for told in ledger.told(CARRIER, [(ACCOUNT, SKU)], after=before)]
    taken_back = pl.concat(news).filter(pl.col("state").is_null())
    assert taken_back["imei_number"].to_list() == frame([word((1, 1), "unassigned")])["imei_number"].to_list()


def test_several_processes_may_open_a_ledger_of_an_older_version_at_once(tmp_path: Path) -> None:
    for n in range(5):
        path = tmp_path / f"{n}.db"
        Ledger(path).close()
        with closing(sqlite3.connect(path)) as database:
            database.execute("ALTER TABLE records DROP COLUMN part")
            database.execute("ALTER TABLE records DROP COLUMN completed_by")
        with ThreadPoolExecutor(8) as threads:
            for opened in [threads.submit(Ledger, path) for _ in range(8)]:
                opened.result().close()
