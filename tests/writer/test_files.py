"""Files are whole or absent, whatever happens while they are written."""

import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from batchlic.atomic import replacing
from batchlic.chunker import DeviceStatus
from batchlic.errors import ExitCode, StoppedEarly
from batchlic.reader.streaming import lazy_frame
from batchlic.writer.summary import exit_code_of
from batchlic.writer.tables import write_table

KILLED = """
import os, signal, sys
from pathlib import Path
import polars as pl
from batchlic.reader.streaming import lazy_frame
from batchlic.writer.tables import write_table

def frames():
    for number in range(5):
        yield pl.DataFrame({"n": [number] * 100_000})
    os.kill(os.getpid(), signal.SIGKILL)

write_table(Path(sys.argv[1]), lazy_frame(frames, {"n": pl.Int64()}))
"""


def test_a_file_appears_whole_and_for_its_owner_only(tmp_path: Path) -> None:
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("half")
        assert not (tmp_path / "file").exists()
        temporary.write_text("whole")
    assert (tmp_path / "file").read_text() == "whole"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_an_error_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")

    def fail() -> None:
        with replacing(tmp_path / "file") as temporary:
            temporary.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "old"}


def test_an_error_while_writing_a_table_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_table(path, pl.LazyFrame({"n": [1]}))
    before = path.read_bytes()

    def frames() -> Iterator[pl.DataFrame]:
        yield pl.DataFrame({"n": [2]})
        raise ZeroDivisionError

    with pytest.raises((ZeroDivisionError, pl.exceptions.ComputeError)):
        write_table(path, lazy_frame(frames, {"n": pl.Int64()}))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"table.parquet": before}


@pytest.mark.slow
def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    path.write_text("old")
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert (ended.returncode, path.read_text()) == (-signal.SIGKILL, "old")


def test_a_disk_error_stops_the_run_and_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with (
        pytest.raises(StoppedEarly, match=r"file: can't be written \(Is a directory\)"),
        replacing(tmp_path / "file") as temporary,
    ):
        temporary.write_text("new")


def test_a_disk_error_in_the_text_of_polars_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(StoppedEarly, match="No space left on device"), replacing(tmp_path / "file"):
        raise pl.exceptions.ComputeError("parquet: underlying IO error: No space left (os error 28)")


@pytest.mark.parametrize(
    ("statuses", "rejected", "code"),
    [
        ({}, 0, ExitCode.OK),
        ({"accepted": 5}, 0, ExitCode.OK),
        ({"accepted": 5, "confirmed": 1, "skipped": 2}, 3, ExitCode.OK),
        ({"accepted": 5}, 4, ExitCode.INCOMPLETE),
        ({"accepted": 5, "failed": 1}, 0, ExitCode.INCOMPLETE),
        ({"accepted": 5, "in_doubt": 1}, 0, ExitCode.INCOMPLETE),
        ({"accepted": 5, "pending": 1}, 0, ExitCode.STOPPED),
    ],
)
def test_the_exit_code_follows_from_statuses_and_rejects(
    statuses: dict[str, int], rejected: int, code: int
) -> None:
    by_status = {DeviceStatus(status): devices for status, devices in statuses.items()}
    assert exit_code_of(by_status, rejected=rejected, max_rejects=3) == code
