"""Runs of the Python API against a sandbox carrier: what they return, raise and leave behind."""

import asyncio
import gc
import logging
import os
import pickle
import resource
import signal
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import polars as pl
import pytest
import structlog

import batchlic
from batchlic import DeviceStatus, RunEvent, RunState, Settings
from batchlic.events import AttemptEnded, RunEnded
from batchlic.writer.audit import AUDIT
from batchlic.writer.callback_outcomes import OUTCOMES
from batchlic.writer.device_states import RESULTS
from tests.api.builders import TARGET, fleet, login
from tests.api.conftest import REFUSED
from tests.endtoend.program import ACCOUNT, FLEXIBLE

ROWS = pl.concat([fleet(5), pl.DataFrame({"imei": ["unknown"]})])
"""Four devices that can have a license, one that the carrier refuses, and a row without a device."""


@pytest.fixture(scope="module")
def ended(url: str, tmp_path_factory: pytest.TempPathFactory) -> batchlic.Run:
    return batchlic.assign(ROWS, **TARGET, settings=login(url, tmp_path_factory.mktemp("state")))


@pytest.mark.slow
def test_a_run_with_failed_devices_is_returned(ended: batchlic.Run) -> None:
    assert (ended.status, ended.exit_code) == (RunState.FINISHED, 3)
    assert ended.summary.statuses == {DeviceStatus.ACCEPTED: 4, DeviceStatus.FAILED: 1}
    assert ended.results.filter(status="failed").select("imei").collect().item() == REFUSED


def test_the_files_of_a_run_are_frames(ended: batchlic.Run) -> None:
    assert ended.plan.collect().height == 5
    assert ended.rejects.select("imei", "row").collect().rows() == [("unknown", 6)]
    assert set(ended.audit.select("outcome").unique().collect().to_series()) == {"accepted", "refused"}
    assert ended.id in ended.results.select("run_id").unique().collect().to_series()


def test_an_incomplete_run_can_be_raised(ended: batchlic.Run) -> None:
    with pytest.raises(batchlic.Incomplete, match="4 accepted, 1 failed, 1 rejected"):
        ended.raise_for_status()


def test_a_run_is_in_the_state_folder_under_its_id(ended: batchlic.Run) -> None:
    assert ended.folder.name == ended.id
    assert (ended.folder.parent / "ledger.db").is_file()


@pytest.mark.slow
def test_a_report_that_is_missing_is_made(ended: batchlic.Run) -> None:
    ended.report().unlink()
    assert "<html" in ended.report().read_text()


def test_a_frame_has_a_name_and_no_path(ended: batchlic.Run) -> None:
    assert [source.name for source in ended.summary.sources] == ["<DataFrame>"]
    assert ended.results.select("source").unique().collect().item() == "<DataFrame>"
    texts = [path.read_bytes() for path in ended.folder.iterdir() if path.is_file()]
    assert not any(b"/batchlic-" in text for text in texts)


def test_a_call_with_the_same_frame_continues_its_run(ended: batchlic.Run) -> None:
    settings = login(ended.summary.carrier, ended.folder.parent)
    again = batchlic.assign(ROWS.lazy(), **TARGET, run_dir=ended.folder, settings=settings)
    assert (again.id, again.summary.requests) == (ended.id, ended.summary.requests)


def test_a_changed_frame_is_refused(ended: batchlic.Run) -> None:
    settings = login(ended.summary.carrier, ended.folder.parent)
    with pytest.raises(batchlic.UsageError, match="<DataFrame> has changed since the run began"):
        batchlic.assign(ROWS.head(4), **TARGET, run_dir=ended.folder, settings=settings)


def test_a_folder_is_opened_by_path_and_by_name(ended: batchlic.Run) -> None:
    settings = login(ended.summary.carrier, ended.folder.parent)
    assert batchlic.Run(ended.folder).id == batchlic.Run(ended.id, settings=settings).id == ended.id


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(batchlic.RunFolderError, match="there is no such run folder"):
        batchlic.Run(tmp_path / "none")


def test_no_representation_shows_a_secret(url: str, tmp_path: Path) -> None:
    settings = Settings(base_url=url, username="me", password="hunter2")
    (tmp_path / "<run>").mkdir()
    run = batchlic.Run(tmp_path / "<run>", settings=settings)
    shown = repr(settings) + str(settings) + repr(run) + run._repr_html_() + repr(run._access)
    assert "hunter2" not in shown
    assert "&lt;run&gt;" in run._repr_html_()
    assert "<run>" not in run._repr_html_()


def test_a_run_outlives_a_change_of_the_current_directory(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = batchlic.assign(
        fleet(2), **TARGET, run_dir="here", settings=settings, on_event=lambda _: os.chdir("/")
    )
    monkeypatch.chdir(tmp_path)
    opened = batchlic.Run("here")
    os.chdir("/")
    assert [one.results.collect().height for one in (run, opened)] == [2, 2]


def test_a_run_whose_folder_is_gone_has_no_files(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = batchlic.Run(tmp_path / "run")
    assert run.results.collect().is_empty()
    (tmp_path / "run").rmdir()
    with pytest.raises(batchlic.RunFolderError, match="there is no such run folder"):
        _ = run.results


def test_a_pickled_run_has_its_folder_and_no_login(url: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = batchlic.Run(tmp_path / "run", settings=Settings(base_url=url, username="me", password="hunter2"))
    pickled = pickle.dumps(run)
    assert b"hunter2" not in pickled
    assert pickle.loads(pickled).folder == run.folder  # noqa: S301 - our own


def test_an_observer_gets_every_attempt_and_the_end(settings: Settings) -> None:
    events: list[RunEvent] = []
    run = batchlic.assign(fleet(2), **TARGET, settings=settings, on_event=events.append)
    assert [type(event) for event in events if isinstance(event, AttemptEnded | RunEnded)] == [
        AttemptEnded,
        RunEnded,
    ]
    assert run.warnings == ()


@pytest.mark.parametrize("error", [ValueError, SystemExit, asyncio.CancelledError])
def test_an_observer_that_fails_is_a_warning(error: type[BaseException], settings: Settings) -> None:
    seen: list[RunEvent] = []

    def fail(event: RunEvent) -> None:
        seen.append(event)
        raise error

    run = batchlic.assign(fleet(2), **TARGET, settings=settings, on_event=fail)
    assert run.exit_code == 0
    assert f"on_event: {error.__name__}" in run.warnings[0]
    assert isinstance(seen[-1], RunEnded)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_nobody_else_can_read_a_file_of_a_run(url: str, tmp_path: Path) -> None:
    state = tmp_path / "new" / "state"
    modes: dict[str, int] = {}

    def look(_: RunEvent | None = None) -> None:
        found = [*state.parent.rglob("*"), state.parent]
        modes.update({path.name: stat.S_IMODE(path.lstat().st_mode) for path in found if path.exists()})

    with umask(0o022):
        run = batchlic.assign(fleet(2), **TARGET, name="nightly", settings=login(url, state), on_event=look)
        look()
    wanted = {"ledger.db", "journal.db", "journal.db-wal", "journal.db-shm", "results.parquet", "run.log"}
    assert modes.keys() >= {*wanted, run.folder.name, "state", "new"}
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}


def process_as_it_is() -> tuple[object, ...]:
    mask = os.umask(0)
    os.umask(mask)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    logging_now = list(logging.root.handlers), logging.root.level, structlog.is_configured()
    filters, environment = list(warnings.filters), dict(os.environ)
    return mask, handlers, limits, gc.get_threshold(), logging_now, filters, environment


@pytest.mark.slow
def test_a_run_prints_nothing_and_leaves_the_process_as_it_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, limits[1]))  # a command would raise it
    try:
        before = process_as_it_is()
        run = batchlic.assign(ROWS, **TARGET, run_dir=tmp_path / "run", sandbox=True)
        assert process_as_it_is() == before
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert run.summary.statuses == {DeviceStatus.ACCEPTED: 5}
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_profile_is_used_without_a_change_of_the_environment(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = tmp_path / "profiles.toml"
    login_as = "\n".join(
        f'{key} = "sandbox"' for key in ("client_id", "client_secret", "username", "password")
    )
    profiles.write_text(f'[east]\nbase_url = "{url}"\n{login_as}\naccount = "{ACCOUNT}"\n')
    profiles.chmod(0o600)
    monkeypatch.setenv("BATCHLIC_PROFILES_FILE", str(profiles))
    before = dict(os.environ)
    run = batchlic.assign(fleet(2), sku=FLEXIBLE, run_dir=tmp_path / "run", profile="east", new_ledger=True)
    assert (run.exit_code, dict(os.environ)) == (0, before)


def test_given_settings_win_over_the_environment(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHLIC_PASSWORD", "other")
    settings = login(url, tmp_path)
    assert batchlic.assign(fleet(2), **TARGET, settings=settings).exit_code == 0


def test_rejected_credentials_are_raised(url: str, tmp_path: Path) -> None:
    wrong = login(url, tmp_path).model_copy(update={"password": None, "session_token": None})
    with pytest.raises(batchlic.UsageError, match="BATCHLIC_PASSWORD"):
        batchlic.assign(fleet(2), **TARGET, settings=wrong)
    rejected = Settings(base_url=url, client_id="a", client_secret="b", username="c", password="d")
    with pytest.raises(batchlic.CredentialsRejected):
        batchlic.assign(fleet(2), **TARGET, run_dir=tmp_path / "run", settings=rejected)


def test_a_lifetime_license_needs_consent(settings: Settings) -> None:
    with pytest.raises(batchlic.RefusedToStart, match="consent"):
        batchlic.assign(fleet(2), account=ACCOUNT, sku="SIMSec-IoT-Lt", settings=settings)
    assert not list(Path(settings.state_dir or "").glob("*/journal.db"))


def test_a_plan_is_applied_later(settings: Settings) -> None:
    planned = batchlic.plan(fleet(2), **TARGET, settings=settings)
    assert (planned.status, planned.exit_code) == (RunState.PLANNED, None)
    assert planned.summary.statuses == {DeviceStatus.PENDING: 2}
    applied = batchlic.apply(planned)
    assert (applied.folder, applied.exit_code) == (planned.folder, 0)
    assert applied.summary.notes[-1].startswith("<DataFrame> was not compared with the inventory")


def test_the_files_of_a_plan_have_no_rows_but_their_columns(settings: Settings) -> None:
    planned = batchlic.plan(fleet(2), **TARGET, settings=settings)
    frames = [planned.results, planned.audit, planned.outcomes]
    assert [frame.collect().height for frame in frames] == [0, 0, 0]
    assert [dict(frame.collect_schema()) for frame in frames] == [RESULTS, AUDIT, OUTCOMES]


def test_kept_columns_are_in_the_results(settings: Settings) -> None:
    sites = fleet(2).with_columns(site=pl.Series(["depot", "yard"], dtype=pl.Categorical))
    run = batchlic.assign(sites, **TARGET, settings=settings, keep=["site"])
    assert run.results.sort("imei").select("site").collect().to_series().to_list() == ["depot", "yard"]


def test_a_guard_compares_a_frame_with_the_last_run_of_the_job(settings: Settings) -> None:
    rows = fleet(10, first=10)
    batchlic.assign(rows, **TARGET, name="nightly", settings=settings)
    with pytest.raises(batchlic.RefusedToStart, match="50% fewer"):
        batchlic.assign(rows.head(5), **TARGET, name="nightly", settings=settings, max_change="20%")


def test_a_job_file_runs_with_other_inventories_and_options(settings: Settings, tmp_path: Path) -> None:
    job = tmp_path / "nightly.toml"
    job.write_text(f'action = "assign"\ninventory.files = ["no.csv"]\nlicense.sku = "{FLEXIBLE}"\n')
    run = batchlic.run(job, inventory=fleet(3), batch_size=2, settings=settings, new_ledger=True)
    assert (run.summary.job, run.summary.batches, run.summary.planned) == ("nightly", 2, 3)


def test_a_table_that_the_api_does_not_use_is_a_warning(settings: Settings, tmp_path: Path) -> None:
    job = tmp_path / "nightly.toml"
    job.write_text('action = "assign"\ninventory.files = ["no.csv"]\nnotify.to = ["ops"]\n')
    run = batchlic.run(job, inventory=fleet(2), sku=FLEXIBLE, settings=settings, new_ledger=True)
    assert "[notify] is for the command line" in run.warnings[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "act",
    [
        partial(batchlic.unassign, **TARGET),
        partial(batchlic.sync, **TARGET, max_removals="100%"),
        partial(batchlic.migrate, from_sku=FLEXIBLE, to_sku="TS-BUNDLE-KTO-SIMSEC-MRC", account=ACCOUNT),
    ],
    ids=["unassign", "sync", "migrate"],
)
def test_each_action_runs(act: Callable[..., batchlic.Run], settings: Settings) -> None:
    devices = fleet(2, first=50)
    batchlic.assign(devices, **TARGET, settings=settings).raise_for_status()
    run = act(devices.head(1), settings=settings).raise_for_status()
    assert "accepted" in set(run.results.select("status").collect().to_series())
