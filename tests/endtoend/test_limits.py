"""A run starts from what an earlier one has learned, and its limits are changed from another terminal."""

import json
import os
import pwd
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from batchlic.sandbox.config import LatencyConfig, SandboxConfig
from tests.endtoend.program import ACCOUNT, FLEXIBLE, batchlic, begin, end, fleet, keys, totals, until
from tests.forking import serving

pytestmark = pytest.mark.slow

USER = pwd.getpwuid(os.getuid()).pw_name


def logged(folder: Path, event: str) -> list[dict[str, Any]]:
    """The lines of a kind in the log of a run."""
    lines = map(json.loads, (folder / "run.log").read_text().splitlines())
    return [line for line in lines if line["event"] == event]


def test_the_limits_of_a_run_are_changed_from_another_terminal(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 150)
    (tmp_path / "runs").mkdir()
    run = tmp_path / "runs" / "tonight"
    with serving(SandboxConfig(latency=LatencyConfig(base_s=0.1))) as url:
        seen = {"seen_at": datetime.now(UTC).isoformat(), "per_s": 25.0, "refused_per_s": 26.0}
        learned = {"carriers": {url: {ACCOUNT: seen}}}
        (tmp_path / "runs" / "ledger.limits.json").write_text(json.dumps(learned))
        options = ("--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", run, "--batch-size", "1")
        process = begin("assign", "fleet.csv", *options, settings=keys(url), cwd=tmp_path)
        until(lambda: sum(dict[str, int](totals(url)["requests"]).values()) > 3)
        assert "25 requests a second (known since" in logged(run, "limiter")[0]["found"]

        changed = batchlic("limit", run, "--max-rate", "5", "--pause", cwd=tmp_path)
        assert (changed.code, "Limits: paused, at most 5 requests per second" in changed.out) == (0, True)
        report = json.loads(batchlic("status", run, "--json", cwd=tmp_path).out)
        assert (report["limits"]["bounds"]["is_paused"], report["limits"]["changed_by"]) == (True, USER)
        assert f"(changed by {USER}, " in batchlic("status", run, cwd=tmp_path).out

        def is_quiet() -> bool:
            """Whether nothing is sent while status looks, once the requests in flight are finished."""
            before = totals(url)["requests"]
            batchlic("status", run, cwd=tmp_path)
            return bool(totals(url)["requests"] == before)

        until(is_quiet)
        before = totals(url)["requests"]
        resumed = batchlic("limit", run, "--resume", "--reset", "--json", cwd=tmp_path)
        assert json.loads(resumed.out)["bounds"]["is_paused"] is False
        until(lambda: totals(url)["requests"] != before)
        assert [(line["by"], line["is_paused"]) for line in logged(run, "limits")] == [
            (USER, True),
            (USER, False),
        ]

        batchlic("limit", run, "--pause", cwd=tmp_path)
        process.send_signal(signal.SIGINT)
        assert end(process).code == 6
        assert batchlic("limit", run, "--pause", cwd=tmp_path).code == 4
        assert batchlic("resume", run, settings=keys(url), cwd=tmp_path).code == 0
