"""One message for each change of a job's state, and none for the nights on which nothing changes."""

from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from batchlic.events import RunEnded
from batchlic.monitoring.alerts.notifier import Notifier, Policy
from batchlic.monitoring.alerts.troubles import Kind
from tests.monitoring.alerts.builders import ORIGIN, FakeService, ended, plan, started

ALL = list(Kind)
OK = ended(0)
DOWN = "the carrier is down"


def notified(
    service: FakeService, memory: Path | None, night: RunEnded, on: Collection[Kind] = ALL
) -> list[str]:
    """Let a night end; return who could not be told."""
    notifier = Notifier([service], Policy(on=on, max_rejects=10), ORIGIN, memory)
    notifier(started())
    notifier(night)
    return notifier.problems


def headlines(tmp_path: Path, nights: Sequence[RunEnded], on: Collection[Kind] = ALL) -> list[str]:
    """What the messages of these nights say, without the name of the job."""
    service = FakeService()
    for night in nights:
        assert notified(service, tmp_path / "state" / "nightly.json", night, on) == []
    return [message.title.removeprefix("nightly: ") for message in service.messages]


STOPPED, DOUBT, FEW = "stopped early (exit 6)", "2 devices in doubt (exit 3)", "43 rows rejected (exit 3)"


@pytest.mark.parametrize(
    ("nights", "told"),
    [
        ([OK, OK], []),
        ([ended(6, DOWN), ended(6, DOWN), OK, OK], [STOPPED, "recovered"]),
        ([ended(6, DOWN), ended(6, "stopped by SIGTERM")], [STOPPED, STOPPED]),
        ([ended(6, "run 20261129T02Z: 7 s more"), ended(6, "run 20261130T02Z: 12,5 s more")], [STOPPED]),
        ([ended(6, "refused: 86450803000001"), ended(6, "refused: 86450803000002, 864508030003")], [STOPPED]),
        ([ended(4, DOWN), ended(6, DOWN)], ["refused (exit 4)", STOPPED]),
        ([ended(2, "no file"), ended(5, "no"), ended(1, "bug")],
         ["could not run (exit 2)", "credentials rejected (exit 5)", "stopped by an error (exit 1)"]),
        ([ended(3, in_doubt=2), ended(3, in_doubt=2), ended(3, in_doubt=3)],
         [DOUBT, "3 devices in doubt (exit 3)"]),
        ([ended(3, in_doubt=9), ended(3, in_doubt=1), ended(3, in_doubt=2)],
         ["9 devices in doubt (exit 3)", DOUBT]),
        ([ended(0, rejected=10)], []),
        ([ended(3, rejected=43), ended(3, rejected=86), ended(3, rejected=87)],
         [FEW, "87 rows rejected (exit 3)"]),
        ([ended(3, failed=1), ended(3, failed=2), ended(3, failed=3)],
         ["1 device failed (exit 3)", "3 devices failed (exit 3)"]),
        ([ended(3)], ["900 devices not confirmed (exit 3)"]),
        ([ended(3, in_doubt=2), ended(4, DOWN), ended(3, in_doubt=2)],
         [DOUBT, "refused (exit 4)", "recovered in part; 2 devices in doubt (exit 3)"]),
        ([ended(3, in_doubt=2), ended(4, DOWN), OK], [DOUBT, "refused (exit 4)", "recovered"]),
        ([ended(6, DOWN), ended(3, rejected=43)], [STOPPED, FEW]),
        ([ended(6, DOWN, is_by_person=True), OK], []),
        ([ended(6, DOWN), ended(4, "you answered no", is_by_person=True), ended(6, DOWN)], [STOPPED]),
    ],
)  # fmt: skip
def test_a_message_is_sent_when_the_state_changes(
    nights: list[RunEnded], told: list[str], tmp_path: Path
) -> None:
    assert headlines(tmp_path, nights) == told


@pytest.mark.parametrize(
    ("on", "told"),
    [
        ([Kind.FAILURE], [STOPPED]),
        ([Kind.DOUBT, Kind.RECOVERED], ["2 devices in doubt (exit 3)", "recovered"]),
        ([Kind.REJECTS], []),
        ([], []),
    ],
)
def test_only_the_changes_that_the_job_names_are_reported(
    on: list[Kind], told: list[str], tmp_path: Path
) -> None:
    assert headlines(tmp_path, [ended(6, DOWN), ended(3, in_doubt=2), OK], on) == told


def test_a_message_that_was_not_sent_is_sent_the_next_night(tmp_path: Path) -> None:
    service, memory = FakeService(problems={1: "HTTP 500"}), tmp_path / "nightly.json"
    assert notified(service, memory, ended(6, DOWN)) == [
        "Fake (BATCHLIC_NOTIFY_URLS) was not notified: HTTP 500"
    ]
    for _ in range(2):
        notified(service, memory, ended(6, DOWN))
    assert (service.asked, len(service.messages)) == (2, 1)


def test_each_target_gets_the_news_that_it_does_not_have_yet(tmp_path: Path) -> None:
    old, new = FakeService("BATCHLIC_NOTIFY_URL_OPS"), FakeService("BATCHLIC_NOTIFY_URL_MAIL")
    memory = tmp_path / "nightly.json"
    notified(old, memory, ended(6, DOWN))
    Notifier([old, new], Policy(on=ALL, max_rejects=0), ORIGIN, memory)(ended(6, DOWN))
    assert (len(old.messages), len(new.messages)) == (1, 1)


def test_the_memory_of_another_version_is_not_used(tmp_path: Path) -> None:
    service, memory = FakeService(), tmp_path / "nightly.json"
    notified(service, memory, ended(6, DOWN))
    memory.write_text(memory.read_text().replace('"format":1', '"format":2'))
    notified(service, memory, ended(6, DOWN))
    assert len(service.messages) == 2


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b"[]", b'{"targets": {"a": 1}}'])
def test_a_damaged_memory_repeats_a_message_and_is_written_again(damage: bytes, tmp_path: Path) -> None:
    service, memory = FakeService(), tmp_path / "nightly.json"
    memory.write_bytes(damage)
    for _ in range(2):
        assert notified(service, memory, ended(6, DOWN)) == []
    assert len(service.messages) == 1


def test_a_memory_that_cannot_be_written_is_a_problem_but_the_message_is_sent(tmp_path: Path) -> None:
    service, blocked = FakeService(), tmp_path / "file"
    blocked.touch()
    (problem,) = notified(service, blocked / "nightly.json", ended(6, DOWN))
    assert problem.startswith("notifications: the next run may repeat this message: ")
    assert len(service.messages) == 1


def test_without_a_memory_every_trouble_is_reported() -> None:
    service = FakeService()
    for night in (OK, ended(6, DOWN), ended(6, DOWN)):
        notified(service, None, night)
    assert len(service.messages) == 2


def test_f_the_memory_holds_no_text_of_a_reason(tmp_path: Path) -> None:
    memory = tmp_path / "nightly.json"
    notified(FakeService(), memory, ended(6, "password-like words"))
    assert "password" not in memory.read_text()
    assert memory.stat().st_mode & 0o077 == 0


def test_the_message_about_a_planned_run_names_its_folder_wherever_its_journal_is(tmp_path: Path) -> None:
    service = FakeService()
    notifier = Notifier([service], Policy(on=ALL, max_rejects=10), ORIGIN, None)
    for event in (started(tmp_path), plan(), ended(6, DOWN)):
        notifier(event)
    (message,) = service.messages
    assert message.body.splitlines()[-2:] == [f"Folder: {tmp_path}", f"Next: batchlic resume {tmp_path}"]
