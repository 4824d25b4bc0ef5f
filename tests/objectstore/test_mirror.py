"""A folder in an object store changes as a whole or not at all, and never under another session."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from batchlic.errors import OtherVersion, RunFolderError, StoppedEarly
from batchlic.objectstore import mirror as mirrors
from batchlic.objectstore.manifest import MANIFEST
from batchlic.objectstore.mirror import Mirror, Replaced
from tests.objectstore.builders import FakeObjects, Killed, Stored, contents, write_files

if TYPE_CHECKING:
    from obstore import UpdateVersion

OLD = {"plan.json": "plan", "results.parquet": "old results", "run.log": "old"}
NEW = {"plan.json": "plan", "results.parquet": "new results", "run.log": "old and new", "audit.parquet": "a"}


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """A store with the files OLD, which a first process wrote."""
    stored = Stored()
    write_files(tmp_path / "first", OLD)
    Mirror(FakeObjects(stored), tmp_path / "first").save()
    return stored


def fetched(stored: Stored, folder: Path) -> dict[str, str]:
    """The files that a new process gets."""
    Mirror(FakeObjects(stored), folder).fetch()
    return contents(folder)


def changed(stored: Stored, folder: Path, killed_at: int | None = None) -> Mirror:
    """A mirror of another process, which has fetched OLD and written NEW into its copy."""
    objects = FakeObjects(stored)
    mirror = Mirror(objects, folder)
    mirror.fetch()
    write_files(folder, NEW)
    objects.operations.clear()
    objects.killed_at = killed_at
    return mirror


def objects_of(mirror: Mirror) -> FakeObjects:
    assert isinstance(mirror._objects, FakeObjects)
    return mirror._objects


def test_another_process_gets_all_files_of_the_folder(stored: Stored, tmp_path: Path) -> None:
    assert fetched(stored, tmp_path / "other") == OLD


def test_files_in_inner_folders_are_kept(tmp_path: Path) -> None:
    stored = Stored()
    write_files(tmp_path / "a" / "rollback-by-request", {"plan.json": "inner"})
    Mirror(FakeObjects(stored), tmp_path / "a").save()
    assert fetched(stored, tmp_path / "b") == {"rollback-by-request/plan.json": "inner"}


@pytest.mark.parametrize("name", [".lock", ".results.parquet.17.tmp", ".limits.request.json"])
def test_what_is_for_this_machine_is_not_kept(tmp_path: Path, name: str) -> None:
    stored = Stored()
    write_files(tmp_path / "a", {"plan.json": "plan"})
    (tmp_path / "a" / name).touch()
    (tmp_path / "a" / ".scratch-x").mkdir()
    (tmp_path / "a" / ".scratch-x" / "data").touch()
    Mirror(FakeObjects(stored), tmp_path / "a").save()
    assert fetched(stored, tmp_path / "b") == {"plan.json": "plan"}


def test_staged_files_are_kept_until_they_are_published(tmp_path: Path) -> None:
    stored = Stored()
    mirror = Mirror(FakeObjects(stored), tmp_path / "a")
    write_files(tmp_path / "a", {})
    staged = tmp_path / "a" / ".results.parquet.next"
    staged.write_text("new")
    mirror.save()
    assert fetched(stored, tmp_path / "b") == {".results.parquet.next": "new"}
    staged.replace(tmp_path / "a" / "results.parquet")
    mirror.save()
    assert fetched(stored, tmp_path / "c") == {"results.parquet": "new"}


def test_an_empty_folder_leaves_nothing_in_the_store(tmp_path: Path) -> None:
    stored = Stored()
    (tmp_path / "a").mkdir()
    Mirror(FakeObjects(stored), tmp_path / "a").save()
    assert stored.objects == {}


def test_a_folder_that_does_not_exist_leaves_no_copy(tmp_path: Path) -> None:
    mirror = Mirror(FakeObjects(Stored()), tmp_path / "a")
    mirror.fetch()
    assert not mirror.exists
    assert not (tmp_path / "a").exists()


def test_a_killed_process_leaves_the_old_files_or_the_new_ones(tmp_path: Path) -> None:
    whole = Stored()
    write_files(tmp_path / "whole", OLD)
    Mirror(FakeObjects(whole), tmp_path / "whole").save()
    mirror = changed(whole, tmp_path / "counted")
    mirror.save()
    operations = len(objects_of(mirror).operations)
    seen = []
    for killed_at in range(operations):
        stored = Stored()
        Mirror(FakeObjects(stored), tmp_path / "whole").save()
        mirror = changed(stored, tmp_path / f"killed-{killed_at}", killed_at)
        with pytest.raises(Killed):
            mirror.save()
        seen.append(fetched(stored, tmp_path / f"after-{killed_at}"))
    assert [found for found in seen if found not in (OLD, NEW)] == []
    assert OLD in seen
    assert NEW in seen


def test_what_a_killed_process_left_is_cleaned_up(stored: Stored, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        changed(stored, tmp_path / "killed", killed_at=2).save()
    mirror = changed(stored, tmp_path / "next")
    mirror.save()
    mirror.clean()
    assert len(stored.objects) == len(NEW) + 1


def test_cleaning_up_spares_what_a_session_is_writing_now(stored: Stored, tmp_path: Path) -> None:
    mirror = changed(stored, tmp_path / "first")
    mirror.save()
    other = changed(stored, tmp_path / "other", killed_at=1)
    write_files(tmp_path / "other", {"run.log": "newer"})
    with pytest.raises(Killed):
        other.save()
    before = set(stored.objects)
    mirror.clean()
    assert set(stored.objects) == before


def test_of_two_sessions_the_second_to_publish_gets_an_error(stored: Stored, tmp_path: Path) -> None:
    first, second = changed(stored, tmp_path / "first"), changed(stored, tmp_path / "second")
    first.save()
    with pytest.raises(Replaced, match="nothing there was overwritten"):
        second.save()
    assert fetched(stored, tmp_path / "other") == NEW


def test_of_two_new_sessions_the_second_to_publish_gets_an_error(tmp_path: Path) -> None:
    stored = Stored()
    first, second = (Mirror(FakeObjects(stored), tmp_path / name) for name in "ab")
    write_files(tmp_path / "a", {"plan.json": "first"})
    write_files(tmp_path / "b", {"plan.json": "second"})
    first.save()
    with pytest.raises(Replaced):
        second.save()
    assert fetched(stored, tmp_path / "other") == {"plan.json": "first"}


def test_a_session_that_was_replaced_never_writes_again(stored: Stored, tmp_path: Path) -> None:
    first, second = changed(stored, tmp_path / "first"), changed(stored, tmp_path / "second")
    first.save()
    with pytest.raises(Replaced):
        second.save()
    objects_of(second).operations.clear()
    second.fetch()  # even if it knows the newest manifest
    write_files(tmp_path / "second", {"run.log": "of the session that was replaced"})
    with pytest.raises(Replaced):
        second.save()
    with pytest.raises(Replaced):
        second.claim()
    assert [one for one in objects_of(second).operations if one.startswith("write")] == []


def test_a_claim_excludes_an_earlier_session_though_no_file_changed(stored: Stored, tmp_path: Path) -> None:
    earlier = changed(stored, tmp_path / "earlier")
    later = Mirror(FakeObjects(stored), tmp_path / "later")
    later.fetch()
    later.claim()
    with pytest.raises(Replaced):
        earlier.save()


def test_a_put_that_succeeded_before_it_was_repeated_is_no_conflict(stored: Stored, tmp_path: Path) -> None:
    class Repeating(FakeObjects):
        def write_if(self, key: str, content: bytes, version: "UpdateVersion | None") -> "UpdateVersion":
            super().write_if(key, content, version)
            return super().write_if(key, content, version)

    mirror = Mirror(Repeating(stored), tmp_path / "copy")
    mirror.fetch()
    write_files(tmp_path / "copy", NEW)
    mirror.save()
    assert fetched(stored, tmp_path / "other") == NEW


class Unanswered(FakeObjects):
    """The first manifest is put, but its answer is lost, as when the network fails at that moment."""

    def write_if(self, key: str, content: bytes, version: "UpdateVersion | None") -> "UpdateVersion":
        is_first = f"write {key} if" not in self.operations
        put = super().write_if(key, content, version)
        if is_first:
            raise StoppedEarly("the object store does not answer")
        return put


def unanswered(stored: Stored, folder: Path) -> Mirror:
    """A mirror of a process whose first put of a manifest got no answer."""
    mirror = Mirror(Unanswered(stored), folder)
    mirror.fetch()
    write_files(folder, {"run.log": "longer"})
    with pytest.raises(StoppedEarly, match="does not answer"):
        mirror.save()
    write_files(folder, NEW)
    return mirror


def test_a_session_goes_on_after_a_put_whose_answer_was_lost(stored: Stored, tmp_path: Path) -> None:
    mirror = unanswered(stored, tmp_path / "copy")
    mirror.save()
    mirror.clean()
    assert fetched(stored, tmp_path / "other") == NEW
    assert len(stored.objects) == len(NEW) + 1


def test_a_put_whose_answer_was_lost_excuses_no_other_session(stored: Stored, tmp_path: Path) -> None:
    mirror = unanswered(stored, tmp_path / "copy")
    changed(stored, tmp_path / "other").claim()
    with pytest.raises(Replaced):
        mirror.save()


def test_a_process_that_was_replaced_may_begin_another_session(stored: Stored, tmp_path: Path) -> None:
    mirror = changed(stored, tmp_path / "earlier")
    other = Mirror(FakeObjects(stored), tmp_path / "later")
    other.fetch()
    other.claim()
    with pytest.raises(Replaced):
        mirror.save()
    mirror.begin()
    write_files(tmp_path / "earlier", NEW)
    mirror.save()
    assert fetched(stored, tmp_path / "third") == NEW


def test_unchanged_files_are_not_uploaded_again(stored: Stored, tmp_path: Path) -> None:
    mirror = changed(stored, tmp_path / "copy")
    mirror.save()
    uploaded = [
        operation for operation in objects_of(mirror).operations if operation.startswith("write files/")
    ]
    assert sorted(operation.rpartition("/")[2] for operation in uploaded) == [
        "audit.parquet",
        "results.parquet",
        "run.log",
    ]


def test_a_copy_without_changes_writes_nothing(stored: Stored, tmp_path: Path) -> None:
    objects = FakeObjects(stored)
    mirror = Mirror(objects, tmp_path / "copy")
    mirror.fetch()
    objects.operations.clear()
    mirror.save()
    assert objects.operations == []


def test_only_the_named_files_are_saved_in_between(stored: Stored, tmp_path: Path) -> None:
    mirror = changed(stored, tmp_path / "copy")
    mirror.save(["run.log"])
    assert fetched(stored, tmp_path / "other") == OLD | {"run.log": "old and new"}


def test_a_file_that_is_removed_is_gone_for_others_too(stored: Stored, tmp_path: Path) -> None:
    reader = Mirror(FakeObjects(stored), tmp_path / "reader")
    reader.fetch()
    mirror = changed(stored, tmp_path / "copy")
    (tmp_path / "copy" / "run.log").unlink()
    mirror.save()
    reader.fetch()
    assert "run.log" not in contents(tmp_path / "reader")


def test_a_reader_fetches_only_what_has_changed(stored: Stored, tmp_path: Path) -> None:
    objects = FakeObjects(stored)
    reader = Mirror(objects, tmp_path / "reader")
    reader.fetch()
    changed(stored, tmp_path / "copy").save()
    objects.operations.clear()
    reader.fetch()
    assert contents(tmp_path / "reader") == NEW
    assert len(objects.operations) == 4  # the manifest and three files


def test_a_reader_gets_only_the_files_that_it_wants(stored: Stored, tmp_path: Path) -> None:
    mirror = Mirror(FakeObjects(stored), tmp_path / "reader")
    mirror.fetch(lambda name: name == "plan.json")
    assert contents(tmp_path / "reader") == {"plan.json": "plan"}
    mirror.fetch()
    assert contents(tmp_path / "reader") == OLD


def test_a_reader_never_keeps_an_outdated_file_that_it_does_not_want(stored: Stored, tmp_path: Path) -> None:
    reader = Mirror(FakeObjects(stored), tmp_path / "reader")
    reader.fetch()
    changed(stored, tmp_path / "copy").save()
    reader.fetch(lambda name: name == "plan.json")
    assert contents(tmp_path / "reader") == {"plan.json": "plan"}


def test_a_reader_whose_files_are_replaced_meanwhile_reads_anew(stored: Stored, tmp_path: Path) -> None:
    class Overtaken(FakeObjects):
        def chunks(self, key: str) -> Iterator[bytes]:
            if key.endswith("results.parquet") and "overtaken" not in self.operations:
                self.operations.append("overtaken")
                changed(stored, tmp_path / "writer").save()
            return super().chunks(key)

    Mirror(Overtaken(stored), tmp_path / "reader").fetch()
    assert contents(tmp_path / "reader") == NEW


def test_a_copy_changes_when_all_its_new_files_are_there(stored: Stored, tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []

    class Watched(FakeObjects):
        def chunks(self, key: str) -> Iterator[bytes]:
            for chunk in super().chunks(key):
                files = contents(tmp_path / "reader")
                seen.append({name: text for name, text in files.items() if name in NEW})
                yield chunk

    reader = Mirror(Watched(stored), tmp_path / "reader")
    reader.fetch()
    changed(stored, tmp_path / "writer").save()
    seen.clear()
    reader.fetch()
    assert seen
    assert [files for files in seen if files != OLD] == []


def test_a_changed_object_is_found_by_its_hash(stored: Stored, tmp_path: Path) -> None:
    key = next(key for key in stored.objects if key.endswith("results.parquet"))
    stored.objects[key] = b"old resultz", 99
    with pytest.raises(RunFolderError, match=r"results.parquet: is damaged: it is not the results.parquet"):
        fetched(stored, tmp_path / "other")
    assert "results.parquet" not in contents(tmp_path / "other")


def test_a_missing_object_is_an_error_and_no_endless_loop(stored: Stored, tmp_path: Path) -> None:
    del stored.objects[next(key for key in stored.objects if key.endswith("run.log"))]
    with pytest.raises(RunFolderError, match=r"manifest.json names an object that does not exist"):
        fetched(stored, tmp_path / "other")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"format":1,"files":[{"name":"x"}]}'])
def test_a_damaged_manifest_is_an_error(stored: Stored, tmp_path: Path, content: bytes) -> None:
    stored.objects[MANIFEST] = content, 99
    with pytest.raises(RunFolderError, match=r"s3://runs/run/manifest.json: is damaged"):
        fetched(stored, tmp_path / "other")


@pytest.mark.parametrize(
    "file",
    [
        {"name": "../outside", "key": "files/x"},
        {"name": "/etc/outside", "key": "files/x"},
        {"name": "inside", "key": "../files/x"},
        {"name": "inside", "key": "other/x"},
    ],
)
def test_a_manifest_names_no_file_outside_of_the_folder(
    stored: Stored, tmp_path: Path, file: dict[str, str]
) -> None:
    manifest = {"format": 1, "files": [{"size": 1, "sha256": "", **file}]}
    stored.objects[MANIFEST] = msgspec.json.encode(manifest), 99
    with pytest.raises(RunFolderError, match="outside of the folder"):
        fetched(stored, tmp_path / "other")


def test_a_manifest_of_a_newer_version_is_not_misread(stored: Stored, tmp_path: Path) -> None:
    stored.objects[MANIFEST] = b'{"format": 2, "entries": {}}', 99
    with pytest.raises(OtherVersion, match="upgrade batchlic"):
        fetched(stored, tmp_path / "other")


def test_a_copy_that_does_not_fit_on_the_disk_is_refused(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "free_space", lambda _: 5)
    with pytest.raises(StoppedEarly, match="TMPDIR"):
        fetched(stored, tmp_path / "other")


def test_a_large_file_is_uploaded_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "_SMALL_BYTES", 4)
    monkeypatch.setattr(mirrors, "_CHUNK_BYTES", 3)
    stored = Stored()
    write_files(tmp_path / "a", {"audit.parquet": "0123456789"})
    Mirror(FakeObjects(stored), tmp_path / "a").save()
    assert fetched(stored, tmp_path / "b") == {"audit.parquet": "0123456789"}


def test_of_a_file_that_grows_meanwhile_a_part_with_its_hash_is_saved(tmp_path: Path) -> None:
    class Growing(FakeObjects):
        def write(self, key: str, content: bytes | Iterator[bytes]) -> None:
            with (tmp_path / "a" / "run.log").open("a") as log:
                log.write("more")
            super().write(key, content)

    stored = Stored()
    write_files(tmp_path / "a", {"run.log": "begun "})
    mirror = Mirror(Growing(stored), tmp_path / "a")
    mirror.save()
    assert fetched(stored, tmp_path / "b") == {"run.log": "begun "}
    mirror.save()
    assert fetched(stored, tmp_path / "c") == {"run.log": "begun more"}
