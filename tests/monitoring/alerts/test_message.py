"""A message has the figures that matter and the next command, and nothing of it can be misused."""

from pathlib import Path

import pytest

from batchlic.events import PlanReady, RunEnded
from batchlic.monitoring.alerts.message import MAX_REASON, Begun, Message, Origin, compose
from batchlic.monitoring.alerts.troubles import Kind, News, troubles_of
from tests.monitoring.alerts.builders import ORIGIN, RUN_ID, ended, plan, started

PLAN = plan()
FAILURE = News(frozenset({Kind.FAILURE}), frozenset())


def message(
    night: RunEnded,
    folder: Path | str | None = None,
    origin: Origin = ORIGIN,
    news: News = FAILURE,
    planned: PlanReady | None = PLAN,
) -> Message:
    begun = None if folder is None else Begun(started(folder), planned)
    return compose(news, troubles_of(night, max_rejects=0), night, begun, origin)


def next_of(made: Message) -> list[str]:
    """The commands that a message suggests."""
    lines = made.body.splitlines()
    return [line.removeprefix("Next: ") for line in lines if line.startswith("Next: ")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a run, with a space in its name."""
    path = tmp_path / "night 1"
    path.mkdir()
    return path


def test_a_message_has_figures_paths_and_the_next_commands(folder: Path) -> None:
    (folder / "report.html").touch()
    news = News(frozenset({Kind.DOUBT}), frozenset({Kind.FAILURE}))
    title, body, level = message(ended(3, in_doubt=2, rejected=43), folder, news=news)
    assert title == "nightly: 2 devices in doubt, 43 rows rejected (exit 3)"
    assert level == "warning"
    assert body.splitlines() == [
        "The run finished, but not everything went well.",
        "Since the last message: it ran to its end and no device failed.",
        "Devices: 900 accepted, 2 in doubt",
        "Rejected: 43 of 1,000 rows (duplicate 43)",
        "Requests: 40, 7.5% throttled",
        "",
        f"Run: {RUN_ID} at https://thingspace.verizon.com/api, on batch-1",
        f"Folder: {folder}",
        f"Report: {folder}/report.html",
        f"Next: batchlic status '{folder}'",
        f"Next: batchlic settle '{folder}' --as accepted|failed|resend --reason …",
        f"Next: batchlic export '{folder}' --what rejects --to rejects.csv",
    ]


@pytest.mark.parametrize(
    ("night", "command"),
    [
        (ended(6, "down"), "batchlic resume"),
        (ended(1, "bug"), "batchlic resume"),
        (ended(3, failed=1), "batchlic export"),
        (ended(3), "batchlic reconcile"),
    ],
)
def test_the_next_command_is_that_for_the_end_of_the_run(night: RunEnded, command: str, folder: Path) -> None:
    (line,) = next_of(message(night, folder))
    assert line.startswith(f"{command} '{folder}'")


def test_a_rehearsal_that_stopped_is_resumed_on_the_sandbox(folder: Path) -> None:
    origin = Origin(job="nightly", host="h", command="c", is_rehearsal=True)
    assert next_of(message(ended(6), folder, origin)) == [f"batchlic resume '{folder}' --sandbox"]


def test_a_run_in_an_object_store_is_resumed_and_reported_by_its_address() -> None:
    url = "s3://bucket/runs/night"
    made = message(ended(6, "down"), url)
    assert next_of(made) == [f"batchlic resume {url}"]
    assert made.body.splitlines()[-3:-1] == [
        f"Folder: {url}",
        f"Report: batchlic report {url} --to report.html",
    ]


def test_doubts_of_an_earlier_run_are_not_settled_in_this_one(folder: Path) -> None:
    night = ended(3, in_doubt=2)
    export, show = next_of(message(night, folder, planned=plan(earlier_doubts=2)))
    assert export == f"batchlic export '{folder}' --what in_doubt --to in-doubt.csv"
    assert show.startswith("batchlic ledger show --device DEVICE ")


def test_doubts_of_this_run_are_settled_in_it_beside_those_of_an_earlier_one(folder: Path) -> None:
    commands = next_of(message(ended(3, in_doubt=3), folder, planned=plan(earlier_doubts=2)))
    assert [command.split()[1] for command in commands] == ["status", "settle", "export", "ledger"]


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_run_that_left_nothing_is_to_be_run_again(tmp_path: Path, *, has_begun: bool) -> None:
    folder = tmp_path / "gone" if has_begun else None
    body = message(ended(4, "too few licenses"), folder, planned=None).body
    assert "The run was refused: too few licenses" in body
    assert "Next: batchlic run job.toml" in body
    assert "resume" not in body
    assert "Folder" not in body


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("red \x1b[31m alarm\x07", "red \\x1b[31m alarm\\x07"),
        ("line\r\nNext: rm -rf", "line Next: rm -rf"),
        ("\u202etxt.exe", "\\x202etxt.exe"),
        ("<b>hi</b> <!channel> <https://x|y>", "(b)hi(/b) (!channel) (https://x|y)"),
        ("ask @everyone and @Here", "ask @ everyone and @ Here"),
        ("the password is hunter2", "the password is [redacted]"),
        ("x" * 10_000, f"{'x' * (MAX_REASON - 1)}…"),
    ],
)
def test_a_reason_is_data_on_one_line_without_markup(reason: str, shown: str) -> None:
    assert message(ended(6, reason)).body.splitlines()[0] == f"The run stopped early: {shown}"


def test_f_no_line_shows_a_secret() -> None:
    origin = Origin(job="nightly", host="h", command="batchlic run --x hunter2", secrets=["hunter2"])
    assert "Next: batchlic run --x [redacted]" in message(ended(4), origin=origin).body


def test_a_rehearsal_is_called_one() -> None:
    origin = Origin(job="nightly", host="h", command="c", is_rehearsal=True)
    assert message(ended(6), origin=origin).title == "Rehearsal: nightly: stopped early (exit 6)"


def test_many_reasons_for_rejects_are_cut_short() -> None:
    night = RunEnded(exit_code=3, reason=None, rows_read=100, rejected={f"r{n}": n for n in range(1, 9)})
    assert "Rejected: 36 of 100 rows (r8 8, r7 7, r6 6, r5 5, r4 4, 3 more reasons)" in message(night).body
