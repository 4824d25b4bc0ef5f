"""A damaged ledger is refused: no flipped bit, lost page or changed row leads to another answer."""

import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from batchlic.errors import ExitCode, LedgerError, RunFolderError
from batchlic.ledger import Ledger, RunEntry
from batchlic.ledger.files import count_devices, export_ledger, find_device
from tests.ledger.test_ledger import CARRIER, OTHER, device_record, record
from tests.reader.builders import ACCOUNT, SKU, imei

PAGE = 4096


def make_ledger(path: Path) -> bytes:
    """A ledger of three runs and two carriers, one run still open; its file."""
    with closing(Ledger(path)) as ledger:
        records = [device_record((n, n if n % 2 else None), "assigned") for n in range(4)]
        record(ledger, 1, [*records, device_record((1, 1), "assigned", OTHER)])
        record(ledger, 2, [device_record((1, 1), "unassigned"), device_record((2, 2), "in_doubt")])
        record(ledger, 1, [device_record((3, 3), "assigned")], carrier="sandbox")
        ledger.register(RunEntry("open", CARRIER, "/runs/open", 9), planned_after=ledger.last_number)
    return path.read_bytes()


def answers(path: Path) -> list[object]:
    """All that a ledger says of its runs and devices."""
    with closing(Ledger(path)) as ledger:
        records = [
            (found.entry, found.account_name, found.sku_number, found.records.rows())
            for carrier in (CARRIER, "sandbox")
            for found in ledger.run_records(carrier, [(ACCOUNT, SKU), (ACCOUNT, OTHER)])
        ]
        runs = [(ledger.has_run(run), ledger.planned_after(run)) for run in ("open", f"{CARRIER} 1", "none")]
        return [records, runs, ledger.scopes(), ledger.last_number, ledger.open_entries(CARRIER)]


def write(path: Path) -> None:
    """Let a run record again: most records repeat, one is new, and one completes another run's."""
    with closing(Ledger(path)) as ledger:
        record(ledger, 2, [device_record((n, n), "unassigned") for n in (0, 1, 5)])


def refusal(path: Path, use: Callable[[Path], object] = answers) -> str:
    with pytest.raises((LedgerError, RunFolderError)) as refused:
        use(path)
    assert refused.value.exit_code == ExitCode.USAGE
    return str(refused.value)


def flipped(whole: bytes, bit: int) -> bytes:
    changed = bytearray(whole)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def wrong_answers(
    path: Path, damaged_files: Iterable[bytes], use: Callable[[Path], object], expected: object
) -> list[object]:
    """What `use` gives with each damaged file, if that is neither the expected answer nor a refusal."""
    wrong: list[object] = []
    for number, content in enumerate(damaged_files):
        path.write_bytes(content)
        try:
            if use(path) != expected:
                wrong.append((number, "another answer"))
        except (LedgerError, RunFolderError):
            pass
        except Exception as error:  # noqa: BLE001 - each other exception is what the test looks for
            wrong.append((number, repr(error)))
        for log in path.parent.glob(f"{path.name}-*"):
            log.unlink()
    return wrong


def with_flipped_bits(whole: bytes, count: int, *, seed: int) -> Iterator[bytes]:
    """The file with one bit flipped, again and again: half of them in its first page (header and schema)."""
    chosen = random.Random(seed)
    for number in range(count):
        first, last = (0, PAGE * 8) if number % 2 else (PAGE * 8, len(whole) * 8)
        yield flipped(whole, chosen.randrange(first, last))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_no_flipped_bit_leads_to_another_answer(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "ledger.db"
    whole = make_ledger(path)
    expected = answers(path)
    assert wrong_answers(path, with_flipped_bits(whole, 200, seed=seed), answers, expected) == []


@pytest.mark.slow
def test_no_flipped_bit_leads_to_another_answer_after_a_recording(tmp_path: Path) -> None:
    def write_and_read(path: Path) -> list[object]:
        write(path)
        return answers(path)

    path = tmp_path / "ledger.db"
    whole = make_ledger(path)
    expected = write_and_read(path)
    assert wrong_answers(path, with_flipped_bits(whole, 60, seed=0), write_and_read, expected) == []


@pytest.mark.slow
def test_each_flipped_bit_of_stored_records_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    whole = make_ledger(path)
    start, end = whole.index(b"PAR1"), whole.rindex(b"PAR1")
    content = whole[start : whole.index(b"PAR1", start + 4)]
    assert end > start
    for bit in random.Random(0).sample(range(start * 8, (start + len(content)) * 8), 50):
        path.write_bytes(flipped(whole, bit))
        assert "do not match their checksum" in refusal(path)


@pytest.mark.parametrize("page", range(8))
def test_a_zeroed_page_is_never_believed(tmp_path: Path, page: int) -> None:
    path = tmp_path / "ledger.db"
    whole = make_ledger(path)
    assert len(whole) >= 8 * PAGE
    path.write_bytes(whole[: page * PAGE] + bytes(PAGE) + whole[(page + 1) * PAGE :])
    refusal(path)


@pytest.mark.parametrize("kept", [0, 1, 99, 100, 4095, 4096, 5000, 2 * 4096, -4096, -1])
def test_a_truncated_ledger_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(make_ledger(path)[:kept])
    refusal(path)


CHANGED_ROWS = {
    "a dropped block": "DELETE FROM records WHERE id = (SELECT min(id) FROM records)",
    "the newest block dropped": "DELETE FROM records WHERE id = (SELECT max(id) FROM records)",
    "all blocks of a run dropped": "DELETE FROM records WHERE run = 1",
    "all rows dropped": "DELETE FROM records; DELETE FROM runs",
    "a dropped run": "DELETE FROM runs WHERE id = 3",
    "a repeated block": "INSERT INTO records SELECT 99, run, part, account_name, sku_number, devices,"
    " unpaired, completed_by, checksum, content FROM records WHERE run = 1 LIMIT 1",
    "another account": "UPDATE records SET account_name = '0000123456-00002' WHERE run = 1",
    "another SKU": "UPDATE records SET sku_number = 'SIMSec-IoT-Lt' WHERE run = 1",
    "another run": "UPDATE records SET run = 2 WHERE run = 1",
    "another frame": "UPDATE records SET part = 1",
    "fewer unpaired": "UPDATE records SET unpaired = 0",
    "another carrier": "UPDATE runs SET carrier = 'sandbox'",
    "an older run": "UPDATE runs SET begun_at = 0 WHERE id = 2",
    "a closed run": "UPDATE runs SET is_open = 0",
    "an import": "UPDATE runs SET folder = NULL",
    "numbers that return": "UPDATE catalog SET last_number = 0",
    "no checksum": "DELETE FROM catalog",
    "two checksums": "INSERT INTO catalog SELECT 2, last_number, checksum FROM catalog",
    "a missing table": "DROP TABLE records",
    "an empty table in its place": "DROP TABLE records; CREATE TABLE records AS SELECT * FROM runs LIMIT 0",
    "a column of another name": "ALTER TABLE runs RENAME COLUMN is_open TO was_open",
    "a column of another type": "PRAGMA writable_schema = ON;"
    " UPDATE sqlite_master SET sql = replace(sql, 'account_name VARCHAR', 'account_name INTEGER')",
}


@pytest.mark.parametrize("statements", CHANGED_ROWS.values(), ids=CHANGED_ROWS)
def test_rows_that_no_run_has_written_are_refused(tmp_path: Path, statements: str) -> None:
    path = tmp_path / "ledger.db"
    make_ledger(path)
    with closing(sqlite3.connect(path)) as database:
        database.executescript(statements)
    refusal(path)
    refusal(path, write)


SWAPPED = {
    "contents": "UPDATE records SET content = (SELECT content FROM records AS other WHERE other.id ="
    " (SELECT min(id) + max(id) FROM records) - records.id)"
    " WHERE id IN ((SELECT min(id) FROM records), (SELECT max(id) FROM records))",
    "contents with their checksums": "UPDATE records SET (checksum, content) ="
    " (SELECT checksum, content FROM records AS other WHERE other.id ="
    " (SELECT min(id) + max(id) FROM records) - records.id)"
    " WHERE id IN ((SELECT min(id) FROM records), (SELECT max(id) FROM records))",
}


@pytest.mark.parametrize("statement", SWAPPED.values(), ids=SWAPPED)
def test_swapped_blocks_are_refused(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "ledger.db"
    make_ledger(path)
    with closing(sqlite3.connect(path)) as database, database:
        assert database.execute(statement).rowcount == 2
    assert "do not match their checksum" in refusal(path)


def test_a_page_that_a_disk_did_not_write_is_noticed(tmp_path: Path) -> None:
    """The page keeps what it had before, with checksums that matched then."""
    path = tmp_path / "ledger.db"
    before = make_ledger(path)
    old_answers = answers(path)
    write(path)
    after, expected = path.read_bytes(), answers(path)
    lost = [
        after[:start] + before[start : start + PAGE] + after[start + PAGE :]
        for start in range(0, len(before), PAGE)
        if before[start : start + PAGE] != after[start : start + PAGE]
    ]
    assert len(lost) > 1
    assert old_answers != expected
    assert wrong_answers(path, lost, answers, expected) == []


def test_a_damaged_list_of_free_pages_is_refused_before_it_is_used(tmp_path: Path) -> None:
    """SQLite would write over the pages of other records: https://sqlite.org/fileformat2.html#the_freelist."""
    path = tmp_path / "ledger.db"
    make_ledger(path)
    with closing(Ledger(path)) as ledger:
        record(ledger, 1, [])
    whole = path.read_bytes()
    trunk, free_pages = int.from_bytes(whole[32:36]), int.from_bytes(whole[36:40])
    assert trunk
    assert free_pages > 1
    first_leaf = (trunk - 1) * PAGE + 8
    for damaged in (
        whole[:36] + (free_pages - 1).to_bytes(4) + whole[40:],
        whole[:first_leaf] + (2).to_bytes(4) + whole[first_leaf + 4 :],
    ):
        path.write_bytes(damaged)
        refusal(path, write)
        assert path.read_bytes() == damaged


def damage_content(path: Path) -> None:
    """Flip a bit in the middle of the first stored content."""
    whole = make_ledger(path)
    path.write_bytes(flipped(whole, (whole.index(b"PAR1") + 100) * 8))


@pytest.mark.parametrize(
    "use",
    [
        count_devices,
        lambda ledger: find_device(ledger, imei(1)),
        lambda ledger: export_ledger(ledger, Path(ledger.place.location).with_name("all.parquet")),
        lambda ledger: export_ledger(ledger, Path(ledger.place.location).with_name("all.csv")),
    ],
    ids=["count", "find", "export to parquet", "export to csv"],
)
def test_a_damaged_ledger_is_not_shown(tmp_path: Path, use: Callable[[Ledger], object]) -> None:
    path = tmp_path / "ledger.db"
    damage_content(path)
    with closing(Ledger(path)) as ledger, pytest.raises(LedgerError):
        use(ledger)
    assert [file.name for file in tmp_path.glob("all*")] == []


def test_the_refusal_says_what_is_damaged_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    damage_content(path)
    assert refusal(path) == (
        f"the ledger {path} is damaged (the records of run {CARRIER} 1 for account {ACCOUNT} and SKU {SKU} "
        "do not match their checksum): restore it from a backup. Or move it away, and build it again from "
        f"its runs: batchlic ledger import RUNS_DIR --ledger {path}"
    )


def test_a_ledger_is_read_and_written_until_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    make_ledger(path)
    write(path)
    before = answers(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("VACUUM")
    assert answers(path) == before
