"""The pages show runs in an object store, and name them by their addresses."""

from pathlib import Path

import pytest

from batchlic.objectstore import copies
from batchlic.objectstore.mirror import Mirror
from batchlic.state import find_runs
from batchlic.web import catalog
from tests.objectstore.builders import BUCKET, s3_server, use
from tests.runs.kept_runs import finished
from tests.web.builders import client


@pytest.mark.slow
def test_the_pages_show_runs_at_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "FRESH_S", 0)
    monkeypatch.setattr(catalog, "_LIST_COST_FACTOR", 0)
    with s3_server() as port:
        use(port, monkeypatch)
        url = f"s3://{BUCKET}/served"
        for name in ("first", "second"):
            finished(tmp_path / name)
        Mirror(copies.open_objects(f"{url}/first"), tmp_path / "first").save()
        browser = client(folder := find_runs(url))
        assert f"1 run in <code>{url}</code>" in browser.get("/").text
        Mirror(copies.open_objects(f"{url}/second"), tmp_path / "second").save()
        shown = browser.get("/").text
        assert f"2 runs in <code>{url}</code>" in shown
        assert str(folder) not in shown
        copies.close()
