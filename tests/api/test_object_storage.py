"""A program starts and reads runs in an object store."""

import pickle
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

import batchlic
from batchlic.errors import RunFolderError, StoppedEarly
from batchlic.objectstore import copies
from batchlic.objectstore.mirror import Mirror
from batchlic.runs.folder import RunFolder
from batchlic.runs.verify import verify
from batchlic.settings import Settings
from tests.endtoend.program import ACCOUNT, FLEXIBLE, fleet
from tests.objectstore.builders import BUCKET, s3_server, use
from tests.postgresql import PostgreSQL

DEVICES = 30


@pytest.fixture
def settings(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    monkeypatch.chdir(tmp_path)
    return Settings(store=postgresql.new_database(tmp_path.name), state_dir=str(tmp_path))


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of a folder in an object store, which does not exist yet."""
    with s3_server() as port:
        use(port, monkeypatch)
        yield f"s3://{BUCKET}/{tmp_path.name}"
        copies.close()


def assign(url: str, settings: Settings, folder: Path) -> batchlic.Run:
    return batchlic.assign(
        fleet(folder / "fleet.csv", DEVICES),
        account=ACCOUNT,
        sku=FLEXIBLE,
        run_dir=url,
        sandbox=True,
        settings=settings,
        write_report=False,
    )


def test_a_program_runs_and_reads_a_run_at_an_address(url: str, settings: Settings, tmp_path: Path) -> None:
    summary = assign(url, settings, tmp_path).summary
    assert summary.statuses == {"accepted": DEVICES}
    copies.close()
    read = batchlic.Run(url, settings=settings)
    assert read.results.collect().height == DEVICES
    assert read.status == "finished"
    assert url in read._repr_html_()
    assert pickle.loads(pickle.dumps(read)).summary == summary  # noqa: S301 - our own
    with pytest.raises(RunFolderError, match=f"{url}-2: there is no such run folder"):
        batchlic.Run(f"{url}-2", settings=settings)


def test_files_whose_session_died_before_publishing_them_are_published_by_the_next(
    url: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Mirror.save

    def cut_off(mirror: Mirror, names: Collection[str] | None = None) -> None:
        if ".results.parquet.next" in mirror.manifest.by_name:
            raise StoppedEarly("no network")
        save(mirror, names)

    with monkeypatch.context() as patched:
        patched.setattr(Mirror, "save", cut_off)
        with pytest.raises(StoppedEarly, match="no network"):
            assign(url, settings, tmp_path)
    copies.close()
    left = copies.local_run(url)
    assert {".results.parquet.next", ".summary.json.next"} <= {path.name for path in left.iterdir()}
    assert batchlic.Run(url, settings=settings).summary.statuses == {"accepted": DEVICES}
    batchlic.resume(url, sandbox=True, settings=settings)
    copies.close()
    found = copies.local_run(url)
    assert [path.name for path in found.iterdir() if path.name.endswith(".next")] == []
    assert verify(RunFolder(found)).findings == []
