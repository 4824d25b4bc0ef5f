"""One run from start to end against a sandbox over TCP, in this process."""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import polars as pl
import pytest

from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.credentials import Credentials, Secret
from batchlic.chunker import Plan
from batchlic.errors import ExitCode, RefusedToStart, RunFolderError, UsageError
from batchlic.job import Job, make_job
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.limiters import only
from batchlic.runs.folder import RunFolder
from batchlic.runs.guards import Guards
from batchlic.runs.ledger_sync import with_ledger
from batchlic.runs.run import expected_exit_code, plan_only, resume, start
from batchlic.runs.status import status
from batchlic.runs.store_record import name_store
from batchlic.runs.submit import obey_earlier_retry_after
from batchlic.runs.target import Target
from batchlic.sandbox.config import Poison, SandboxConfig
from tests.endtoend.program import ACCOUNT, FLEXIBLE, LIFETIME, books, contents, imei, totals
from tests.forking import serving
from tests.journal.builders import intent, new_journal


@contextmanager
def carrier(**config: Any) -> Iterator[Target]:  # noqa: ANN401 - any field of a sandbox's configuration
    name = Secret("sandbox")
    credentials = Credentials(client_id=name, client_secret=name, username=name, password=name)
    with serving(SandboxConfig(**config)) as url:
        yield Target(url, url, credentials, ())


def job_of(folder: Path, rows: list[str], *, action: str = "assign", **limits: float) -> Job:
    (folder / "fleet.csv").write_text("\n".join(["IMEI,SKU", *rows, ""]))
    content = {
        "action": action,
        "report": {"write": False},
        "inventory": {"files": [str(folder / "fleet.csv")], "allow_empty": True},
        "license": {"account": ACCOUNT, "sku": FLEXIBLE, "consent_lifetime": True},
        "limits": limits,
    }
    return make_job(content, {}, where="test")


@pytest.mark.slow
def test_a_run_beside_one_whose_store_is_gone_is_sent(tmp_path: Path) -> None:
    (tmp_path / "runs" / "old").mkdir(parents=True)
    name_store(tmp_path / "runs" / "old" / "store.json", "postgresql://ann@127.0.0.1:1/gone")
    job = job_of(tmp_path, [f"{imei(n)},{FLEXIBLE}" for n in range(10)])
    guarded = make_job(job.model_dump(mode="json"), {"inventory": {"max_change": "10%"}}, where="test")
    with carrier() as target:
        ended = start(guarded, RunFolder(tmp_path / "runs" / "new"), target, run_id="new")
    assert ended.exit_code == 0
    assert any("postgresql://ann@127.0.0.1:1/gone can't be used now" in note for note in ended.notes)


@pytest.mark.slow
def test_unassign_takes_flexible_licenses_and_never_lifetime_ones(tmp_path: Path) -> None:
    rows = [f"{imei(n)},{LIFETIME if n == 3 else FLEXIBLE}" for n in range(10)]
    with carrier() as target:
        assigned = start(job_of(tmp_path, rows), RunFolder(tmp_path / "give"), target, run_id="give")
        assert (assigned.exit_code, assigned.statuses) == (0, {"accepted": 10})
        back = job_of(tmp_path, rows, action="unassign")
        taken = start(back, RunFolder(tmp_path / "take"), target, run_id="take")
        licenses = {device: record["licenses"] for device, record in books(target.base_url).items()}
    assert (taken.exit_code, taken.statuses, taken.rejected) == (3, {"accepted": 9}, {"irrevocable": 1})
    assert licenses == {imei(n): {LIFETIME: 1} if n == 3 else {} for n in range(10)}


@pytest.mark.slow
def test_every_request_carries_one_account_and_one_sku(tmp_path: Path) -> None:
    rows = [f"{imei(n)},{LIFETIME if n % 3 else FLEXIBLE}" for n in range(250)]
    with carrier() as target:
        start(job_of(tmp_path, rows), RunFolder(tmp_path / "run"), target, run_id="run")
        licenses = {device: record["licenses"] for device, record in books(target.base_url).items()}
    assert licenses == {imei(n): {LIFETIME if n % 3 else FLEXIBLE: 1} for n in range(250)}


@pytest.mark.slow
def test_a_run_whose_batches_get_the_same_refusal_stops_soon(tmp_path: Path) -> None:
    job = job_of(tmp_path, [f"{imei(n)}," for n in range(300)], batch_size=1, max_concurrency=2)
    code = "REQUEST_FAILED.AccountNotFound"
    poison = tuple(Poison(identifier=imei(n), error_code=code) for n in range(300))
    with carrier(poison=poison) as target:
        stopped = start(job, RunFolder(tmp_path / "run"), target, run_id="run")
    assert (stopped.exit_code, stopped.requests["accepted"]) == (ExitCode.STOPPED, 0)
    assert stopped.requests["total"] <= 10
    assert stopped.stopped_because is not None
    assert ACCOUNT in stopped.stopped_because


@pytest.mark.slow
def test_a_run_resumes_only_with_its_own_carrier_and_plan(tmp_path: Path) -> None:
    folder, job = RunFolder(tmp_path / "run"), job_of(tmp_path, [f"{imei(n)}," for n in range(10)])
    with carrier() as target:
        start(job, folder, target, run_id="run")
        before = contents(folder.path)
        assert start(job, folder, target, run_id="again").run_id == "run"
        with pytest.raises(UsageError, match="batchlic resume"):
            plan_only(job, folder, Guards())
        other = Target("https://elsewhere.example", target.base_url, target.credentials, ())
        with pytest.raises(UsageError, match=r"talks to http://127.*not to https://elsewhere"):
            resume(folder, other)
        assert contents(folder.path) == before
        pl.read_parquet(folder.plan).head(5).write_parquet(folder.plan)
        with pytest.raises(RunFolderError, match=r"plan\.parquet: missing or changed"):
            resume(folder, target)
        with pytest.raises(RunFolderError, match=r"plan\.parquet: missing or changed"):
            status(folder)
        assert sum(totals(target.base_url)["requests"].values()) == 1


@pytest.mark.slow
def test_the_question_names_devices_sku_account_and_carrier(tmp_path: Path) -> None:
    questions: list[str] = []

    def ask(question: str, **_: object) -> None:
        questions.append(question)
        raise RefusedToStart("nothing was sent")

    folder, job = RunFolder(tmp_path / "run"), job_of(tmp_path, [f"{imei(n)}," for n in range(10)])
    with carrier() as target:
        with pytest.raises(RefusedToStart):
            start(job, folder, target, run_id="run", ask=ask)
        [question] = questions
        assert question.endswith(f". Assign 10 x {FLEXIBLE} on account {ACCOUNT} at {target.name}?")
        assert not folder.journal.exists()
        assert start(job, folder, target, run_id="run").statuses == {"accepted": 10}


@pytest.mark.parametrize(("rows", "code"), [([], 0), (["123,"], 3)])
def test_a_run_with_nothing_to_send_writes_its_files(tmp_path: Path, rows: list[str], code: int) -> None:
    folder = RunFolder(tmp_path / "run")
    with carrier() as target:
        summary = start(job_of(tmp_path, rows), folder, target, run_id="run")
    assert (summary.exit_code, summary.planned, summary.statuses) == (code, 0, {})
    assert pl.read_parquet(folder.results).height == pl.read_parquet(folder.audit).height == 0
    assert json.loads(folder.summary.read_text())["rows_read"] == len(rows)


def test_a_planned_folder_has_a_plan_and_no_journal(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    planned = plan_only(job_of(tmp_path, [f"{imei(1)},", "123,"]), folder, Guards())
    assert (planned.planned, dict(planned.rejected)) == (1, {"bad_length": 1})
    assert set(contents(folder.path)) == {"plan.parquet", "rejects.parquet"}
    with pytest.raises(RunFolderError, match="nothing was ever sent"):
        status(folder)


@pytest.mark.parametrize(
    ("excluded", "rejected", "code"),
    [
        ({}, 0, ExitCode.OK),
        ({"skipped": 5}, 0, ExitCode.OK),
        ({"skipped": 1, "in_doubt": 2}, 0, ExitCode.INCOMPLETE),
        ({"failed": 1}, 0, ExitCode.INCOMPLETE),
        ({}, 3, ExitCode.OK),
        ({}, 4, ExitCode.INCOMPLETE),
    ],
)
def test_a_plan_with_devices_that_the_ledger_excludes_exits_as_its_run(
    tmp_path: Path, excluded: dict[str, int], rejected: int, code: ExitCode
) -> None:
    plan = Plan(
        sources=(),
        rows_read=10 + rejected,
        rejected={"conflict": rejected},
        planned=10,
        excluded=excluded,
        batches=1,
        groups=(),
        notes=(),
    )
    assert expected_exit_code(job_of(tmp_path, [], max_rejects=3), plan) is code


def test_a_lock_whose_file_was_removed_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, lock = RunFolder(tmp_path), fcntl.flock

    def lock_after_removal(descriptor: int, operation: int) -> None:
        (tmp_path / ".lock").unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", lock_after_removal)
    with pytest.raises(RefusedToStart, match="run the command again"), folder.locked():
        pass


@pytest.mark.slow
def test_the_journal_has_the_whole_job(tmp_path: Path) -> None:
    folder, job = RunFolder(tmp_path / "run"), job_of(tmp_path, [f"{imei(1)},"], max_rate=50, max_rejects=7)
    with carrier() as target:
        start(job, folder, target, run_id="run")
    with closing(folder.journal.open()) as journal:
        assert Job.model_validate(journal.identity.job) == with_ledger(job, folder)


def test_j_a_session_waits_out_the_rest_of_a_retry_after(tmp_path: Path) -> None:
    async def is_paused() -> bool:
        with closing(new_journal(tmp_path)) as journal:
            seq = await journal.intend(intent(started_at=time.time_ns() // 1000))
            throttled = Answer(outcome=Outcome.THROTTLED, http_status=429, retry_after_s=600.0)
            await journal.answer(seq, throttled, duration_ms=1.0, final=False)
            limiter = Limiter(max_concurrency=1)
            obey_earlier_retry_after(journal, only(limiter), give_up_after=1800)
            return limiter.is_paused

    assert anyio.run(is_paused)


@pytest.mark.slow
def test_the_second_phase_of_a_sync_does_not_begin_if_the_first_one_stops(tmp_path: Path) -> None:
    kept, gone, new = range(300), range(300, 302), range(400, 500)

    def fleet(action: str, *numbers: range, **limits: float) -> Job:
        rows = [f"{imei(n)},{FLEXIBLE}" for part in numbers for n in part]
        return job_of(tmp_path, rows, action=action, **limits).with_ledger(tmp_path / "ledger.db")

    code = "REQUEST_FAILED.AccountNotFound"
    with carrier(poison=tuple(Poison(identifier=imei(n), error_code=code) for n in new)) as target:
        start(fleet("assign", kept, gone), RunFolder(tmp_path / "give"), target, run_id="give")
        sync = fleet("sync", kept, new, batch_size=1, max_concurrency=2)
        stopped = start(sync, RunFolder(tmp_path / "sync"), target, run_id="sync")
        licensed = {device for device, record in books(target.base_url).items() if record["licenses"]}
    assert (stopped.exit_code, licensed) == (ExitCode.STOPPED, {imei(n) for n in (*kept, *gone)})
