"""A ledger in a store: damage is refused, writers take turns, and a replaced session records nothing."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import polars as pl
import pytest

from batchlic.database import leases
from batchlic.database.leases import LeaseLost
from batchlic.database.postgresql import open_store, remember
from batchlic.errors import LedgerError, OtherVersion, RefusedToStart, StoppedEarly, UsageError
from batchlic.ledger import Announcement, Ledger, RunEntry
from batchlic.ledger.catalog import Catalog
from batchlic.ledger.files import (
    count_devices,
    export_ledger,
    forget_run,
    import_files,
    inspect_existing,
    open_existing,
)
from batchlic.reader import ReadOptions
from tests.ledger.test_ledger import CARRIER, OTHER, device_record, frame, record
from tests.postgresql import PostgreSQL
from tests.reader.builders import ACCOUNT, SKU
from tests.stores import take_away

CHANGED_ROWS = {
    "a dropped block": "DELETE FROM records WHERE id = (SELECT min(id) FROM records)",
    "all rows dropped": "DELETE FROM records; DELETE FROM runs",
    "a dropped run": "DELETE FROM runs WHERE id = 2",
    "another SKU": "UPDATE records SET sku_number = 'SIMSec-IoT-Lt' WHERE run = 1",
    "a closed run": "UPDATE runs SET is_open = false",
    "numbers that return": "UPDATE catalog SET last_number = 0",
    "no checksum": "DELETE FROM catalog",
    "two checksums": "INSERT INTO catalog SELECT 2, last_number, checksum FROM catalog",
    "another content": "UPDATE records SET content = set_byte(content, 50, 255 - get_byte(content, 50))",
}


def execute(store: str, statements: str) -> None:
    with open_store(store).engine.begin() as connection:
        connection.exec_driver_sql(statements)


def make_ledger(store: str) -> None:
    """A ledger of two runs, the second one still open."""
    with closing(Ledger(store)) as ledger:
        record(ledger, 1, [device_record((1, 1), "assigned"), device_record((1, 1), "assigned", OTHER)])
        ledger.register(RunEntry("open", CARRIER, "/runs/open", 9), planned_after=ledger.last_number)


@pytest.mark.parametrize("statements", CHANGED_ROWS.values(), ids=CHANGED_ROWS)
def test_rows_of_a_store_that_no_run_has_written_are_refused(empty_store: str, statements: str) -> None:
    make_ledger(empty_store)
    execute(empty_store, statements)
    with pytest.raises(LedgerError, match="is damaged"), closing(Ledger(empty_store)) as ledger:
        count_devices(ledger)


def test_a_damaged_ledger_in_a_store_says_what_to_do(empty_store: str) -> None:
    make_ledger(empty_store)
    execute(empty_store, CHANGED_ROWS["another content"])
    with closing(Ledger(empty_store)) as ledger, pytest.raises(LedgerError) as refused:
        count_devices(ledger)
    assert f"the ledger in {empty_store} is damaged (the records of run" in str(refused.value)
    assert "restore the database from a backup" in str(refused.value)


def test_a_store_without_a_ledger_is_not_shown(empty_store: str) -> None:
    for opened in (open_existing, inspect_existing):
        with pytest.raises(UsageError, match="no ledger in this database yet"), opened(empty_store):
            pass
    make_ledger(empty_store)
    with inspect_existing(empty_store) as ledger:
        assert [count.assigned for count in count_devices(ledger)] == [1, 1]


def test_several_processes_make_the_ledger_of_a_store_once(empty_store: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        for opened in [threads.submit(Ledger, empty_store) for _ in range(16)]:
            opened.result().close()
    with closing(Ledger(empty_store)) as ledger:
        assert ledger.last_number == 0


@pytest.mark.slow
def test_two_processes_that_record_at_once_take_turns(empty_store: str) -> None:
    Ledger(empty_store).close()
    context = get_context("forkserver")
    writers = [context.Process(target=record_often, args=(empty_store, run)) for run in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    with closing(Ledger(empty_store)) as ledger:
        assert ledger.open_by_run() == {f"{CARRIER} 1": False, f"{CARRIER} 2": False}
        assert ledger.latest(CARRIER, ACCOUNT, SKU).height == 10


def record_often(store: str, run: int) -> None:
    with closing(Ledger(store)) as ledger:
        for last in range(1, 6):
            record(ledger, run, [device_record((10 * run + n,) * 2, "assigned") for n in range(last)])


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_the_ledger_as_it_was(empty_store: str) -> None:
    make_ledger(empty_store)
    with closing(Ledger(empty_store)) as ledger:
        before = ledger.open_by_run(), ledger.last_number
        killed = get_context("forkserver").Process(target=record_and_die, args=(empty_store,))
        killed.start()
        killed.join()
        assert killed.exitcode == -signal.SIGKILL
        assert (ledger.open_by_run(), ledger.last_number) == before
        record(ledger, 3, [device_record((3, 3), "assigned")])
        assert ledger.latest(CARRIER, ACCOUNT, SKU).height == 2


def record_and_die(store: str) -> None:
    """Die in the transaction, with everything written and the row of the catalog locked."""
    die = patch.object(Catalog, "save", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    with closing(Ledger(store)) as ledger, die:
        ledger.record("open", [frame([device_record((2, 2), "assigned")])])


def test_a_reader_sees_one_moment_while_another_process_records(empty_store: str) -> None:
    make_ledger(empty_store)
    with closing(Ledger(empty_store)) as ledger, closing(Ledger(empty_store)) as other:
        found = ledger.run_records(CARRIER, [(ACCOUNT, SKU), (ACCOUNT, OTHER)])
        first = next(found)
        record(other, 1, [])
        assert [first.records.height, *(one.records.height for one in found)] == [1, 1]
        assert list(other.run_records(CARRIER, [(ACCOUNT, SKU)])) == []


# -- leases ---------------------------------------------------------------------------------------------


@pytest.fixture
def lease(empty_store: str) -> Iterator[leases.Lease]:
    """The lease of a session of this process."""
    with leases.held(open_store(empty_store), "run:1", what="run 1", holder="pid 1 on here") as held:
        yield held


def test_k_a_replaced_session_records_nothing_in_the_ledger(empty_store: str, lease: leases.Lease) -> None:
    entry = RunEntry("run", CARRIER, "/runs/run", 1)
    with closing(Ledger(empty_store)) as ledger:
        ledger.register(entry, announcement=Announcement(lease))
        take_away(empty_store, lease.key)
        frames = [frame([device_record((1, 1), "assigned")])]
        for write in (
            lambda: ledger.record("run", frames, lease=lease),
            lambda: ledger.close_run("run", lease=lease),
            lambda: ledger.register(entry, announcement=Announcement(lease)),
        ):
            with pytest.raises(LeaseLost, match="another session"):
                write()
        assert ledger.scopes() == []
        assert ledger.open_by_run() == {"run": True}


def test_a_run_announces_its_devices_until_it_is_closed(empty_store: str, lease: leases.Lease) -> None:
    devices = frame([device_record((n, n), "assigned") for n in range(3)])
    announced = devices.select("account_name", "imei_number", "iccid_number")
    with closing(Ledger(empty_store)) as ledger:
        entry = RunEntry("run", CARRIER, "/runs/run", 1)
        ledger.register(entry, announcement=Announcement(lease, [announced[:2], announced[2:]]))
        assert pl.concat(ledger.announced("run")).equals(announced)
        ledger.close_run("run", lease=lease)
        assert not ledger.has_announced("run")


@pytest.mark.parametrize(
    "damage", ["DELETE FROM announced WHERE part = 1", "UPDATE announced SET content = content || 'x'"]
)
def test_announced_devices_that_are_damaged_are_refused(
    empty_store: str, lease: leases.Lease, damage: str
) -> None:
    devices = frame([device_record((1, 1), "assigned")])
    with closing(Ledger(empty_store)) as ledger:
        ledger.register(RunEntry("run", CARRIER, "/r", 1), announcement=Announcement(lease, [devices] * 2))
        execute(empty_store, damage)
        with pytest.raises(LedgerError, match="what run run has announced"):
            list(ledger.announced("run"))


def test_a_run_at_work_on_another_machine_is_not_forgotten(empty_store: str, lease: leases.Lease) -> None:
    with closing(Ledger(empty_store)) as ledger:
        ledger.register(RunEntry("run", CARRIER, "/runs/run", 1), announcement=Announcement(lease))
        assert ledger.holder("run") is None  # this process itself
        with patch.object(leases, "is_held_here", lambda *_: False):
            assert ledger.holder("run") == "pid 1 on here"
            with pytest.raises(RefusedToStart, match=r"run run is at work \(pid 1 on here\)"):
                forget_run(ledger, "run")


# -- servers --------------------------------------------------------------------------------------------


def test_a_ledger_is_not_read_from_a_database_of_a_newer_version(postgresql: PostgreSQL) -> None:
    location = postgresql.new_database("newer_ledger")
    postgresql.execute("CREATE TABLE batchlic_schema (version_num text)", "newer_ledger")
    postgresql.execute("INSERT INTO batchlic_schema VALUES ('9999')", "newer_ledger")
    with pytest.raises(OtherVersion, match="newer than this version of batchlic"):
        Ledger(location)


def test_a_read_only_database_is_noticed_before_anything_is_sent(postgresql: PostgreSQL) -> None:
    location = postgresql.new_database("read_only_ledger")
    make_ledger(location)
    postgresql.execute("ALTER DATABASE read_only_ledger SET default_transaction_read_only = on")
    open_store(remember(location)).engine.dispose()
    with closing(Ledger(location)) as ledger, pytest.raises(StoppedEarly, match="is read-only"):
        ledger.place.refuse_unwritable()


def test_a_ledger_moves_from_a_file_to_a_store_by_an_export(tmp_path: Path, empty_store: str) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as file:
        record(file, 1, [device_record((n, n), "assigned") for n in range(3)])
        export_ledger(file, tmp_path / "known.parquet")
        known = file.latest(CARRIER, ACCOUNT, SKU)
    with closing(Ledger(empty_store)) as ledger:
        import_files(ledger, [str(tmp_path / "known.parquet")], ReadOptions(), carrier=CARRIER)
        assert ledger.latest(CARRIER, ACCOUNT, SKU).equals(known)
