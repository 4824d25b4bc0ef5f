"""A program starts and reads runs in an object store."""

import pickle
from pathlib import Path

import pytest

import batchlic
from batchlic.errors import RunFolderError
from batchlic.objectstore import copies
from batchlic.settings import Settings
from tests.endtoend.program import ACCOUNT, FLEXIBLE, fleet
from tests.objectstore.builders import BUCKET, s3_server, use
from tests.postgresql import PostgreSQL


@pytest.fixture
def settings(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    monkeypatch.chdir(tmp_path)
    return Settings(store=postgresql.new_database("object_storage_api"), state_dir=str(tmp_path))


def test_a_program_runs_and_reads_a_run_at_an_address(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with s3_server() as port:
        use(port, monkeypatch)
        url = f"s3://{BUCKET}/api/first"
        inventory = fleet(tmp_path / "fleet.csv", 30)
        started = batchlic.assign(
            inventory,
            account=ACCOUNT,
            sku=FLEXIBLE,
            run_dir=url,
            sandbox=True,
            settings=settings,
            write_report=False,
        )
        summary = started.summary
        assert summary.statuses == {"accepted": 30}
        copies.close()
        read = batchlic.Run(url, settings=settings)
        assert read.results.collect().height == 30
        assert read.status == "finished"
        assert url in repr(read._repr_html_())
        assert pickle.loads(pickle.dumps(read)).summary == summary  # noqa: S301 - our own
        with pytest.raises(RunFolderError, match=f"{url}-2: there is no such run folder"):
            batchlic.Run(f"{url}-2", settings=settings)
        copies.close()
