"""Two sessions of one run, or of one job: at most one works."""

import re
import signal
from pathlib import Path

import pytest

from tests.endtoend.program import end
from tests.postgresql import PostgreSQL
from tests.store.site import assert_books_equal_results, site

HOLDER = r"pid {pid} on .+, since 20.+its lease lasts until 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ \(\d+ s\)"


def test_of_two_sessions_of_a_run_one_works(tmp_path: Path, postgresql: PostgreSQL) -> None:
    with site(tmp_path, postgresql, latency=0.02) as at:
        at.batchlic("store", "upgrade")
        sessions = [at.assign(BATCHLIC_LEASE_S="30") for _ in range(2)]
        ends = {process.pid: end(process) for process in sessions}
        (refused, by), (_, done) = sorted(ends.items(), key=lambda item: -item[1].code)
        assert (by.code, done.code) == (4, 0), (by, done)
        (working,) = ends.keys() - {refused}
        assert re.search(HOLDER.format(pid=working), by.err), by.err
        assert_books_equal_results(at)


@pytest.mark.slow
def test_of_two_runs_of_a_job_one_works(tmp_path: Path, postgresql: PostgreSQL) -> None:
    with site(tmp_path, postgresql, latency=0.02) as at:
        at.batchlic("store", "upgrade")
        job = tmp_path / "nightly.toml"
        job.write_text(
            'action = "assign"\n[inventory]\nfiles = ["fleet.csv"]\n'
            '[license]\naccount = "0000123456-00001"\nsku = "SIMSec-IoT"\n'
            "[limits]\nbatch_size = 10\nmax_concurrency = 2\n[ledger]\nuse = false\n"
        )
        sessions = [
            at.begin("run", "nightly.toml", "--run-dir", folder, BATCHLIC_LEASE_S="30")
            for folder in ("a/run", "b/run")
        ]
        ends = {process.pid: end(process) for process in sessions}
        (refused, by), (_, done) = sorted(ends.items(), key=lambda item: -item[1].code)
        assert (by.code, done.code) == (4, 0), (by, done)
        (working,) = ends.keys() - {refused}
        assert "job nightly: " in by.err
        assert re.search(HOLDER.format(pid=working), by.err), by.err


@pytest.mark.slow
def test_a_killed_session_is_named_until_its_lease_lapses(tmp_path: Path, postgresql: PostgreSQL) -> None:
    with site(tmp_path, postgresql) as at:
        killed = at.assign(BATCHLIC_LEASE_S="3600")
        at.until_sent(10, killed)
        at.kill_in_flight(killed)
        intents = at.ask("SELECT run, seq FROM intents")
        refused = at.batchlic("resume", "run")
        assert refused.code == 4
        assert re.search(HOLDER.format(pid=killed.pid), refused.err), refused.err
        assert at.ask("SELECT run, seq FROM intents") == intents
        at.ask("UPDATE leases SET expires_at = clock_timestamp()")
        assert at.finish().code == 3
        assert_books_equal_results(at)


@pytest.mark.slow
def test_a_session_that_ends_frees_the_run_at_once(tmp_path: Path, postgresql: PostgreSQL) -> None:
    with site(tmp_path, postgresql) as at:
        stopped = at.assign(BATCHLIC_LEASE_S="3600")
        at.until_sent(10, stopped)
        stopped.send_signal(signal.SIGTERM)
        assert end(stopped).code == 6
        assert at.finish().code == 0
        assert_books_equal_results(at)
