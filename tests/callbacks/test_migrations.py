"""Callbacks of migrations: each step has its own outcome; both together say which license a device holds."""

import json
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import httpx
import polars as pl
import pytest

from batchlic.callbacks.messages import StoredMessage
from batchlic.callbacks.server import ListenerOptions, listener_process
from batchlic.callbacks.store import Store
from batchlic.carrier.catalog import Action
from batchlic.carrier.client import open_client
from batchlic.carrier.credentials import Secret
from batchlic.chunker import DeviceStatus, Step, parse_ranges
from batchlic.errors import ExitCode
from batchlic.journal import Attempt
from batchlic.runs.folder import RunFolder
from batchlic.runs.history import device_history
from batchlic.runs.preflight import RunListener, register
from batchlic.runs.reconcile import reconcile
from batchlic.runs.run import resume
from batchlic.runs.settle import settle
from batchlic.runs.verify import verify
from batchlic.sandbox.config import CallbackConfig
from batchlic.writer.summary import Summary
from tests.callbacks.builders import PASSWORD, SETTINGS, USERNAME, failure, message_about, statuses
from tests.endtoend.program import PATIENCE, batchlic, until
from tests.loopback import NO_CERTIFICATES
from tests.recovery.builders import (
    ACCOUNT,
    BATCH_SIZE,
    DEVICES,
    FLEXIBLE,
    LIFETIME,
    Carrier,
    carrier,
    fleet,
    imei,
    job,
    run,
)
from tests.recovery.migrations import (
    NEW,
    held,
    known,
    losing_an_answer_about,
    moving,
    onboarded,
    stopping_at,
    with_limits,
)

pytestmark = pytest.mark.slow

FIRST = imei(0)


def messages(folder: RunFolder, **failing: Collection[str]) -> Iterator[StoredMessage]:
    """A message about each device of each accepted request; `failing` are, by step, the IMEIs that fail."""
    plan = pl.read_parquet(folder.plan)
    with closing(folder.journal.open()) as journal:
        for attempt in journal.attempts():
            devices = plan.filter(batch_id=attempt.batch_id)["imei"]
            for offset in parse_ranges(attempt.part) or range(len(devices)):
                failed = devices[offset] in failing.get(str(attempt.step), ())
                if attempt.request_id:
                    yield about(devices[offset], attempt.request_id, attempt.started_at + 1, failed=failed)


def attempts_of(folder: RunFolder) -> list[Attempt]:
    with closing(folder.journal.open()) as journal:
        return list(journal.attempts())


def about(device: str, request_id: str, at: int, *, failed: bool = False) -> StoredMessage:
    fault = failure(error_message="sorry") if failed else {}
    return message_about(request_id, device, account_name=ACCOUNT, **{"received_at": at, **fault})


def reconciled(folder: RunFolder, received: Collection[StoredMessage] = ()) -> Summary:
    with closing(Store.open(str(folder.path / "store.db"))) as store:
        if received:
            store.write(list(received))
        return reconcile(folder, store)


def strange(folder: RunFolder, devices: Collection[str], *, failed: bool = False) -> list[StoredMessage]:
    """Messages of a request that nobody has had an answer to, just after the last one of the run."""
    with closing(folder.journal.open()) as journal:
        last = max(attempt.started_at for attempt in journal.attempts())
    return [about(device, "strange", last + 1000, failed=failed) for device in devices]


def row(folder: RunFolder, device: str = FIRST) -> dict[str, Any]:
    return pl.read_parquet(folder.results).row(by_predicate=pl.col("imei") == device, named=True)


def moved(folder: Path, at: Carrier, **license: Any) -> RunFolder:  # noqa: ANN401 - any key of the table
    run(folder / "move", at, moving(onboarded(folder, at), **license))
    return RunFolder(folder / "move")


def test_a_device_is_confirmed_once_both_of_its_steps_are(tmp_path: Path) -> None:
    with carrier() as at:
        folder = moved(tmp_path, at)
        received = list(messages(folder))
        first_of_each = {one.imei: one for one in reversed(received)}
        assert reconciled(folder, first_of_each.values()).statuses == {"accepted": DEVICES}
        summary = reconciled(folder, received)
    assert (summary.exit_code, summary.statuses) == (ExitCode.OK, {"confirmed": DEVICES})
    found = row(folder)
    assert (found["unassign_status"], found["assign_status"]) == ("confirmed", "confirmed")
    assert found["step"] == "assign"
    assert known(tmp_path) == {FLEXIBLE: (0, DEVICES, 0), NEW: (DEVICES, 0, 0)}
    assert verify(folder).findings == []
    events = [(one.event, one.action, one.sku_number) for one in device_history(FIRST, folder.path)]
    assert ("called_back", "unassign", FLEXIBLE) in events
    assert ("called_back", "assign", NEW) in events


def test_a_message_about_several_devices_is_about_one_step(tmp_path: Path) -> None:
    with carrier() as at:
        folder = moved(tmp_path, at)
        [request] = {one.request_id for one in messages(folder) if one.imei == FIRST} & {
            attempt.request_id for attempt in attempts_of(folder) if attempt.step == Step.ASSIGN
        }
        last = pl.read_parquet(folder.plan)["imei"][-1]
        message = about(FIRST, request, attempts_of(folder)[-1].started_at + 1)
        reconciled(folder, [message._replace(further_ids=f"IMEI:{last}")])
    for device in (FIRST, last):
        found = row(folder, device)
        assert (found["assign_status"], found["unassign_status"]) == ("confirmed", "accepted")


@pytest.mark.parametrize("order", ["auto", "unassign-first"])
@pytest.mark.parametrize(
    ("failing", "holds", "has_old", "has_new"),
    [
        (["assign"], "holds no license: sorry", 0, 0),
        (["unassign"], "holds both licenses: sorry", 1, 1),
        (["unassign", "assign"], "still has its old license: sorry", 1, 0),
    ],
)
def test_a_device_with_a_failed_step_is_reported_with_its_license(  # noqa: PLR0917 - one column each
    tmp_path: Path, order: str, failing: list[str], holds: str, has_old: int, has_new: int
) -> None:
    with carrier() as at:
        folder = moved(tmp_path, at, order=order, restore=True)
        received = list(messages(folder, **{step: [FIRST] for step in failing}))
        for half in (received[::2], received[1::2]):
            reconciled(folder, half)
    summary = reconciled(folder)  # nothing is to be restored: that is for what an answer refuses
    assert (summary.exit_code, summary.statuses) == (3, {"confirmed": DEVICES - 1, "failed": 1})
    found = row(folder)
    assert (found["status"], found["step"], found["error_message"]) == ("failed", failing[0], holds)
    assert found["error_code"] == "REQUEST_FAILED.UnexpectedError"
    assert known(tmp_path) == {
        FLEXIBLE: (has_old, DEVICES - has_old, 0),
        NEW: (DEVICES - 1 + has_new, 0, 0),
    }
    assert verify(folder).findings == []


def test_a_callback_that_denies_a_restore_leaves_no_license(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchlic.pool.breaker.FIRST_PAUSE", 0.001)
    with carrier(licenses={FLEXIBLE: 1000, NEW: DEVICES // 2}) as at:
        folder = moved(tmp_path, at, restore=True)
        back = pl.read_parquet(folder.results).filter(status="failed")["imei"].to_list()
        summary = reconciled(folder, list(messages(folder, restore=back[:1])))
    assert summary.statuses == {"confirmed": DEVICES - len(back), "failed": len(back)}
    found = [row(folder, device) for device in back[:2]]
    assert [one["restore_status"] for one in found] == ["failed", "confirmed"]
    reasons = [one["error_message"].split(":")[0] for one in found]
    assert reasons == [
        "holds no license, and could not be given the old one back",
        "has its old license back",
    ]
    assert known(tmp_path)[FLEXIBLE] == (len(back) - 1, DEVICES - len(back) + 1, 0)


def test_a_device_with_its_old_license_is_moved_by_the_next_run(tmp_path: Path) -> None:
    with carrier() as at:
        folder = moved(tmp_path, at)
        reconciled(folder, list(messages(folder, assign=[FIRST], unassign=[FIRST])))
        again = run(tmp_path / "again", at, moving(tmp_path / "fleet.csv"))
    assert again.statuses == {"accepted": 1, "skipped": DEVICES - 1}


@pytest.mark.parametrize("order", ["auto", "unassign-first"])
def test_a_denied_first_step_prevents_the_second_step(tmp_path: Path, order: str) -> None:
    first, second = {"auto": ("assign", "unassign"), "unassign-first": ("unassign", "assign")}[order]
    with carrier() as at:
        folder, given = RunFolder(tmp_path / "move"), moving(onboarded(tmp_path, at), order=order)
        with stopping_at(Action(second), NEW if second == "assign" else FLEXIBLE):
            assert run(folder.path, at, with_limits(given, max_concurrency=1)).exit_code == ExitCode.STOPPED
        [denied] = {one.imei for one in list(messages(folder))[:1]}
        summary = reconciled(folder, list(messages(folder, **{first: [denied]})))
        assert (summary.exit_code, summary.statuses[DeviceStatus.FAILED]) == (ExitCode.STOPPED, 1)
        assert resume(folder, at.target).statuses == {"accepted": DEVICES - 1, "failed": 1}
        assert at.licenses()[denied] == ({FLEXIBLE: 1, NEW: 1} if order == "auto" else {})
    assert row(folder, denied)[f"{second}_status"] is None
    assert row(folder, denied)["error_message"] == "still has its old license: sorry"
    assert verify(folder).findings == []


@pytest.mark.parametrize("order", ["auto", "unassign-first"])
def test_a_second_step_in_doubt_stays_so_when_the_first_is_denied(tmp_path: Path, order: str) -> None:
    first, second, lost = {
        "auto": ("assign", "unassign", FLEXIBLE),
        "unassign-first": ("unassign", "assign", NEW),
    }[order]
    with carrier() as at:
        given = with_limits(moving(onboarded(tmp_path, at), order=order), resend_in_doubt=False)
        folder = RunFolder(tmp_path / "move")
        with losing_an_answer_about(lost):
            run(folder.path, at, with_limits(given, max_concurrency=1))
        device = pl.read_parquet(folder.results).filter(status="in_doubt")["imei"][0]
        reconciled(folder, list(messages(folder, **{first: [device]})))
        assert resume(folder, at.target).statuses == {"confirmed": 90, "in_doubt": 10}
        assert row(folder, device)["step"] == second
        settle(folder, DeviceStatus.PENDING, reason="nobody knows")
        assert row(folder, device)["status"] == "pending"
        resume(folder, at.target)
    assert (row(folder, device)["status"], row(folder, device)["step"]) == ("failed", first)
    assert row(folder, device)[f"{second}_status"] == "accepted"
    with closing(folder.journal.open()) as journal:
        sent = [a for a in journal.attempts() if a.step == second]
    assert {attempt.part for attempt in sent} == {""}  # and so each request as it was


def test_a_license_that_a_callback_reports_as_kept_is_not_given_back(tmp_path: Path) -> None:
    with carrier() as at:
        given = moving(onboarded(tmp_path, at), order="unassign-first", restore=True)
        folder = RunFolder(tmp_path / "move")
        with losing_an_answer_about(NEW):
            run(folder.path, at, with_limits(given, resend_in_doubt=False, max_concurrency=1))
        [denied, *others] = pl.read_parquet(folder.results).filter(status="in_doubt")["imei"]
        reconciled(folder, list(messages(folder, unassign=[denied])))
        settle(folder, DeviceStatus.FAILED, reason="the portal says so")
        resume(folder, at.target)
    assert {row(folder, device)["restore_status"] for device in others} == {"accepted"}
    assert row(folder, denied)["restore_status"] is None
    assert row(folder, denied)["error_message"] == "still has its old license: sorry"


# -- doubt ----------------------------------------------------------------------------------------------


def test_a_proven_first_step_is_followed_by_the_second(tmp_path: Path) -> None:
    with carrier() as at:
        folder = RunFolder(tmp_path / "move")
        with losing_an_answer_about(LIFETIME):
            summary = run(folder.path, at, moving(onboarded(tmp_path, at), LIFETIME))
        doubtful = pl.read_parquet(folder.results).filter(status="in_doubt")["imei"].to_list()
        assert summary.statuses[DeviceStatus.IN_DOUBT] == len(doubtful) == BATCH_SIZE
        summary = reconciled(folder, strange(folder, doubtful[:4]))
        assert (
            summary.exit_code,
            summary.statuses[DeviceStatus.PENDING],
            summary.statuses[DeviceStatus.IN_DOUBT],
        ) == (6, 4, 6)
        reconciled(folder, strange(folder, doubtful))
        assert resume(folder, at.target).statuses == {"accepted": DEVICES}
        assert held(at) == {((LIFETIME, 1),): DEVICES}
        assert reconciled(folder, list(messages(folder))).statuses == {"confirmed": DEVICES}
    assert row(folder, doubtful[0])["request_id"] == "strange"
    assert verify(folder).findings == []


def test_a_first_step_proven_failed_leaves_the_old_license(tmp_path: Path) -> None:
    with carrier() as at:
        folder = RunFolder(tmp_path / "move")
        with losing_an_answer_about(LIFETIME):
            run(folder.path, at, moving(onboarded(tmp_path, at), LIFETIME))
        doubtful = pl.read_parquet(folder.results).filter(status="in_doubt")["imei"].to_list()
        summary = reconciled(folder, strange(folder, doubtful, failed=True))
    assert summary.statuses == {"accepted": DEVICES - BATCH_SIZE, "failed": BATCH_SIZE}
    assert row(folder, doubtful[0])["error_message"] == "still has its old license: sorry"


def test_if_answers_of_both_steps_are_lost_a_message_proves_none(tmp_path: Path) -> None:
    with carrier() as at:
        folder = RunFolder(tmp_path / "move")
        moves = moving(onboarded(tmp_path, at), LIFETIME, order="unassign-first")
        with losing_an_answer_about(FLEXIBLE), losing_an_answer_about(LIFETIME):
            summary = run(folder.path, at, with_limits(moves, max_concurrency=1))
        doubtful = pl.read_parquet(folder.results).filter(status="in_doubt")["imei"].to_list()
        assert summary.statuses[DeviceStatus.IN_DOUBT] == len(doubtful) == BATCH_SIZE
        received = [*messages(folder), *strange(folder, doubtful)]
        again = reconciled(folder, received)
    assert again.statuses == {"confirmed": DEVICES - BATCH_SIZE, "in_doubt": BATCH_SIZE}
    assert row(folder, doubtful[0])["unassign_status"] == "confirmed"


@pytest.mark.parametrize(
    ("clear", "status"), [("confirmed", "failed"), ("failed", "accepted"), ("unreported", "accepted")]
)
def test_a_lost_assign_counts_until_its_unassign_is_confirmed(
    tmp_path: Path, clear: str, status: str
) -> None:
    with carrier() as at:
        folder = RunFolder(tmp_path / "move")
        with losing_an_answer_about(NEW):
            run(folder.path, at, moving(onboarded(tmp_path, at)))
        with closing(folder.journal.open()) as journal:
            cleared = next(a for a in journal.attempts() if a.step == Step.CLEAR)
        device = pl.read_parquet(folder.plan).filter(batch_id=cleared.batch_id)["imei"][0]
        failing = {"assign": [device], "clear": [device] if clear == "failed" else []}
        received = [*strange(folder, [device]), *messages(folder, **failing)]
        if clear == "unreported":
            received = [one for one in received if one.request_id != cleared.request_id]
        summary = reconciled(folder, received)
    assert summary.statuses == {"confirmed": DEVICES - 1, status: 1}
    assert row(folder, device)["error_message"] == ("holds no license: sorry" if status == "failed" else None)


# -- the whole loop -------------------------------------------------------------------------------------


def test_every_device_holds_the_license_that_the_results_say(tmp_path: Path) -> None:
    store = str(tmp_path / "store.db")
    untidy = CallbackConfig(jitter_s=0.3, repeat_share=0.2, early_share=0.2, failure_share=0.4)
    with (
        carrier(callbacks=untidy, seed=3) as at,
        listener_process(ListenerOptions(port=0), store, SETTINGS) as url,
    ):
        run(tmp_path / "onboarding", at, job(fleet(tmp_path / "fleet.csv")))
        holders = [device for device, licenses in at.licenses().items() if licenses]
        (tmp_path / "holders.csv").write_text("\n".join(["IMEI", *holders, ""]))
        anyio.run(_registered, at, url)
        folder = RunFolder(tmp_path / "move")
        run(folder.path, at, moving(tmp_path / "holders.csv"))
        totals = at.target.base_url.replace("/api", "/sandbox/totals")
        until(
            lambda: (
                not httpx.get(totals, trust_env=False, verify=NO_CERTIFICATES, timeout=PATIENCE).json()[
                    "callbacks_pending"
                ]
            )
        )
        with closing(Store.open(store)) as kept:
            reconcile(folder, kept)
        books = at.licenses()
    results = pl.read_parquet(folder.results).with_columns(pl.col("error_message").str.extract("^([^:]+):"))
    expected = {
        None: {NEW: 1},
        "holds no license": {},
        "holds both licenses": {FLEXIBLE: 1, NEW: 1},
        "still has its old license": {FLEXIBLE: 1},
    }
    by_books = {device: books[device] for device in results["imei"]}
    assert by_books == {r["imei"]: expected[r["error_message"]] for r in results.iter_rows(named=True)}
    assert set(statuses(folder)) == {"confirmed", "failed"}
    assert results["error_message"].n_unique() == 4
    assert known(tmp_path)[NEW][0] == sum(NEW in licenses for licenses in by_books.values())


async def _registered(at: Carrier, url: str) -> None:
    own = RunListener(url=url, username=Secret(USERNAME), password=Secret(PASSWORD))
    async with open_client(at.target.base_url, at.target.credentials) as client:
        await register(client, [ACCOUNT], own)


def test_a_migration_waits_for_its_callbacks(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv")
    skus = ["--account", ACCOUNT, "--from-sku", FLEXIBLE, "--to-sku", NEW]
    waiting = ["--sandbox", "--wait-callbacks", "1m", "--listen-port", "0", "--run-dir", "run", "--json"]
    done = batchlic("migrate", "fleet.csv", *skus, *waiting, cwd=tmp_path)
    assert done.code == ExitCode.OK, done.err
    assert json.loads(done.out)["statuses"] == {"confirmed": DEVICES}
