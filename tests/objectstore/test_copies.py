"""A process works on local copies of run folders, and a session keeps the object store in step."""

import threading
from pathlib import Path

import pytest

from batchlic.aliases import shown
from batchlic.errors import RefusedToStart, RunFolderError, StoppedEarly, UsageError
from batchlic.objectstore import copies
from batchlic.objectstore.manifest import MANIFEST
from batchlic.objectstore.mirror import Mirror
from batchlic.runs.folder import RunFolder
from batchlic.runs.history import device_history
from batchlic.runs.listing import RunState, list_runs
from tests.objectstore.builders import contents, write_files


def on_another_machine(url: str) -> dict[str, str]:
    """The files of a run folder as a process without any copy gets them."""
    copies.close()
    return contents(copies.local_run(url))


@pytest.fixture
def run(s3: str) -> str:
    """The address of a run that a session has written."""
    url = f"{s3}/runs/first"
    folder = copies.local_run(url)
    with copies.session(folder):
        write_files(folder, {"plan.json": "plan", "summary.json": "figures"})
    copies.close()
    return url


@pytest.mark.slow
def test_the_copy_is_named_as_the_run(run: str) -> None:
    folder = copies.local_run(run)
    assert folder.name == "first"
    assert contents(folder) == {"plan.json": "plan", "summary.json": "figures"}


def test_the_same_address_has_one_copy(run: str) -> None:
    assert copies.local_run(run) == copies.local_run(f"{run}/")


def test_messages_name_the_address_instead_of_the_copy(run: str) -> None:
    folder = copies.local_run(run)
    assert shown(f"{folder}/plan.json: is damaged") == f"{run}/plan.json: is damaged"
    assert shown(str(folder.parent)) == run.removesuffix("/first")
    assert copies.address_of(folder) == run
    copies.close()
    assert shown(str(folder)) == run  # errors are shown when the copies are gone


def test_other_folders_keep_their_paths(run: str, tmp_path: Path) -> None:
    copies.local_run(run)
    assert copies.address_of(tmp_path) == str(tmp_path)
    assert not copies.is_copy(tmp_path)


def test_a_copy_can_be_read_by_nobody_else_and_is_removed(run: str) -> None:
    folder = copies.local_run(run)
    assert folder.stat().st_mode & 0o077 == 0
    copies.close()
    assert not folder.parent.exists()


def test_a_run_that_does_not_exist_has_no_copy(s3: str) -> None:
    assert not copies.local_run(f"{s3}/nothing").exists()


def test_a_run_that_does_not_exist_can_not_be_locked(s3: str) -> None:
    folder = RunFolder(copies.local_run(f"{s3}/runs/typo"))
    with pytest.raises(RunFolderError, match="there is no such run folder"), folder.locked():
        pass


def test_a_session_saves_what_it_changed_when_it_ends(run: str) -> None:
    folder = copies.local_run(run)
    with copies.session(folder):
        write_files(folder, {"results.parquet": "results"})
    assert on_another_machine(run)["results.parquet"] == "results"


def test_a_session_begins_with_what_another_one_saved_meanwhile(run: str, tmp_path: Path) -> None:
    folder = copies.local_run(run)
    other = Mirror(copies.open_objects(run), tmp_path / "other")
    other.fetch()
    write_files(other.folder, {"summary.json": "newer figures"})
    other.save()
    with copies.session(folder):
        assert contents(folder)["summary.json"] == "newer figures"


def test_a_claim_stores_the_files_before_anything_is_sent(s3: str, tmp_path: Path) -> None:
    url = f"{s3}/new"
    folder = copies.local_run(url)
    with copies.session(folder):
        write_files(folder, {"plan.json": "plan"})
        copies.claim(folder)
        reader = Mirror(copies.open_objects(url), tmp_path / "reader")
        reader.fetch()
        assert contents(reader.folder) == {"plan.json": "plan"}


@pytest.mark.slow
def test_of_two_sessions_on_an_address_one_is_refused_before_it_sends(run: str, tmp_path: Path) -> None:
    folder = copies.local_run(run)
    other = Mirror(copies.open_objects(run), tmp_path / "other")
    other.fetch()

    def work() -> None:
        with copies.session(folder):
            other.claim()
            write_files(folder, {"plan.json": "of the second session"})
            copies.claim(folder)

    with pytest.raises(RefusedToStart, match=r"another session .* Nothing was sent"):
        work()
    assert on_another_machine(run) == {"plan.json": "plan", "summary.json": "figures"}


def test_a_new_run_is_refused_where_another_one_was_begun_meanwhile(s3: str, tmp_path: Path) -> None:
    url = f"{s3}/new"
    folder = copies.local_run(url)
    write_files(folder, {"store.json": "of the second run"})
    other = Mirror(copies.open_objects(url), tmp_path / "other")
    write_files(other.folder, {"store.json": "of the first run"})
    other.save()
    with pytest.raises(RefusedToStart, match="another session has begun a run there"), copies.session(folder):
        pytest.fail("the session began")
    assert on_another_machine(url) == {"store.json": "of the first run"}


def test_a_new_run_that_is_refused_leaves_nothing_in_the_object_store(s3: str) -> None:
    url = f"{s3}/new"
    folder = copies.local_run(url)

    def work() -> None:
        with copies.session(folder):
            write_files(folder, {"plan.json": "plan"})
            raise RefusedToStart("too few licenses")

    with pytest.raises(RefusedToStart, match="too few"):
        work()
    assert copies.open_objects(url).list_keys() == []


def expired(_: Mirror) -> None:
    raise UsageError("the session token has expired: renew it")


def test_a_token_that_expires_after_a_claim_leaves_a_run_to_resume(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        folder = copies.local_run(run)
        with copies.session(folder):
            copies.claim(folder)
            monkeypatch.setattr(Mirror, "save", expired)

    with pytest.raises(StoppedEarly, match=r"expired: renew it\. Then resume the run"):
        work()


def test_a_token_that_has_expired_before_a_claim_is_a_usage_error(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mirror, "save", expired)
    folder = copies.local_run(run)
    with pytest.raises(UsageError, match="expired"), copies.session(folder):
        pass


def test_a_session_that_was_replaced_overwrites_nothing(run: str, tmp_path: Path) -> None:
    folder = copies.local_run(run)
    other = Mirror(copies.open_objects(run), tmp_path / "other")
    other.fetch()

    def work() -> None:
        with copies.session(folder):
            other.claim()
            write_files(folder, {"summary.json": "of the session that was replaced"})

    with pytest.raises(StoppedEarly, match="another session has written"):
        work()
    assert on_another_machine(run)["summary.json"] == "figures"


def test_a_session_that_lost_its_lease_saves_nothing(run: str) -> None:
    def work() -> None:
        folder = copies.local_run(run)
        with copies.session(folder):
            write_files(folder, {"summary.json": "of the session that lost its lease"})
            raise StoppedEarly("another session has taken over")

    with pytest.raises(StoppedEarly, match="taken over"):
        work()
    assert on_another_machine(run)["summary.json"] == "figures"


def test_a_session_with_a_bug_saves_what_it_wrote(run: str) -> None:
    def work() -> None:
        folder = copies.local_run(run)
        with copies.session(folder):
            write_files(folder, {"run.log": "traceback"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert on_another_machine(run)["run.log"] == "traceback"


def test_the_log_is_saved_during_a_session(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "SAVE_EVERY_S", 0.01)
    monkeypatch.setattr(copies, "SAVE_SHARE", 1)
    is_saved = threading.Event()
    save = Mirror.save

    def noticed(mirror: Mirror, names: list[str] | None = None) -> None:
        save(mirror, names)
        if names is not None and "run.log" in mirror.manifest.by_name:
            is_saved.set()

    monkeypatch.setattr(Mirror, "save", noticed)
    folder = copies.local_run(run)
    with copies.session(folder):
        write_files(folder, {"run.log": "line", "results.parquet": "half"})
        assert is_saved.wait(60)
        reader = Mirror(copies.open_objects(run), tmp_path / "reader")
        reader.fetch()
        assert {"run.log", "results.parquet"} & contents(reader.folder).keys() == {"run.log"}


def test_who_reads_a_run_does_not_undo_what_a_session_here_writes(run: str) -> None:
    folder = copies.local_run(run)
    with copies.session(folder):
        write_files(folder, {"summary.json": "new figures"})
        assert contents(copies.local_run(run))["summary.json"] == "new figures"
    assert on_another_machine(run)["summary.json"] == "new figures"


def test_a_new_run_beside_a_copy_is_saved_too(run: str) -> None:
    new = copies.local_run(run).parent / "retry"
    with copies.session(new):
        write_files(new, {"plan.json": "retry"})
    assert on_another_machine(f"{run.removesuffix('/first')}/retry") == {"plan.json": "retry"}


def test_a_run_inside_a_run_is_found_at_its_address(run: str) -> None:
    folder = copies.local_run(run)
    with copies.session(folder), copies.session(folder / "rollback-by-request"):
        write_files(folder / "rollback-by-request", {"plan.json": "rollback"})
    assert on_another_machine(f"{run}/rollback-by-request") == {"plan.json": "rollback"}


def test_all_runs_below_an_address_are_found(run: str) -> None:
    root = run.removesuffix("/runs/first")
    with copies.session(folder := copies.local_run(f"{root}/runs/2026/second")):
        write_files(folder, {"plan.json": "second"})
    copies.close()
    found = contents(copies.local_runs(root, lambda name: name == "plan.json"))
    assert found == {"runs/first/plan.json": "plan", "runs/2026/second/plan.json": "second"}


@pytest.fixture
def damaged(run: str) -> str:
    """The address of a damaged run beside the first one."""
    url = f"{run.removesuffix('first')}damaged"
    copies.open_objects(url).write(MANIFEST, b"{")
    return url


@pytest.mark.usefixtures("damaged")
def test_a_damaged_run_does_not_hide_the_others(run: str) -> None:
    folder = copies.local_runs(run.removesuffix("/first"))
    assert contents(folder / "first")["plan.json"] == "plan"
    assert copies.problem_of(folder / "first") is None
    assert "is damaged" in str(copies.problem_of(folder / "damaged"))


def test_a_damaged_run_is_listed_with_its_problem(run: str, damaged: str) -> None:
    folder = copies.local_runs(run.removesuffix("/first"))
    [listed] = list_runs(folder)
    assert listed.state is RunState.DAMAGED
    assert shown(listed.problem or "").startswith(f"{damaged}/manifest.json: is damaged")


@pytest.mark.usefixtures("damaged")
def test_a_history_without_a_damaged_run_is_refused(run: str) -> None:
    folder = copies.local_runs(run.removesuffix("/first"))
    with pytest.raises(RunFolderError, match=r"manifest.json: is damaged"):
        device_history("353456789012348", folder)


@pytest.mark.usefixtures("damaged")
def test_a_damaged_run_beside_a_new_one_is_seen_and_stops_nobody(run: str) -> None:
    new = RunFolder(copies.local_run(f"{run.removesuffix('first')}new"))
    beside = list(new.beside())
    assert [folder.path.name for folder in beside] == ["damaged"]
    with pytest.raises(RunFolderError):
        beside[0].journal.identity()


def test_a_run_that_was_repaired_is_read_again(run: str, damaged: str) -> None:
    folder = copies.local_runs(run.removesuffix("/first"))
    copies.open_objects(damaged).write(MANIFEST, b'{"format": 1}')
    copies.refresh(folder)
    assert copies.problem_of(folder / "damaged") is None


def test_a_list_is_brought_up_to_date(run: str, tmp_path: Path) -> None:
    parent = run.removesuffix("/first")
    folder = copies.local_runs(parent)
    other = Mirror(copies.open_objects(f"{parent}/second"), tmp_path / "second")
    write_files(other.folder, {"plan.json": "second"})
    other.save()
    copies.open_objects(run).delete(["manifest.json"])
    copies.refresh(folder)
    assert contents(folder) == {"second/plan.json": "second"}


def test_a_list_keeps_a_new_run_that_is_not_in_the_object_store_yet(run: str) -> None:
    new = copies.local_run(f"{run.removesuffix('first')}retry")
    write_files(new, {"retried.parquet": "devices"})
    copies.fetch_beside(new, lambda _: True)
    assert contents(new) == {"retried.parquet": "devices"}


def test_a_list_drops_a_run_that_was_deleted(run: str) -> None:
    folder = copies.local_runs(run.removesuffix("/first"))
    copies.open_objects(run).delete([MANIFEST])
    copies.refresh(folder)
    assert not (folder / "first").exists()


def test_runs_beside_a_copy_are_fetched_into_its_parent(run: str) -> None:
    new = copies.local_run(f"{run.removesuffix('/first')}/second")
    copies.fetch_beside(new, lambda name: name == "plan.json")
    assert contents(new.parent) == {"first/plan.json": "plan"}
