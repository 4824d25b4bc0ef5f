"""Output for people: figures, and no text from outside that could rewrite the terminal."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.chunker import Plan, PlanGroup
from batchlic.cli.format import describe, describe_plan
from batchlic.logs import RunLog, printable, printable_lines
from batchlic.reader import Source
from batchlic.runs.estimate import Estimate, LicenseNeed
from batchlic.writer.summary import InventoryRows, Summary

HOSTILE = "\x1b]0;owned\x07\r\u202e\x9b31m"


def summary(**changes: object) -> Summary:
    fields: dict[str, object] = {
        "run_id": "run-1",
        "job": "nightly",
        "action": "assign",
        "carrier": "https://carrier.example/api",
        "sources": [InventoryRows("fleet.csv", 12)],
        "rows_read": 12,
        "rejected": {"duplicate": 2},
        "planned": 10,
        "statuses": {"accepted": 7, "failed": 1, "in_doubt": 2},
        "batches": 1,
        "requests": {"total": 3, "accepted": 1, "throttled": 2, "refused": 0},
        "started_at": None,
        "finished_at": None,
        "devices_per_second": None,
        "exit_code": 3,
    }
    return Summary(**fields | changes)  # type: ignore[arg-type]  # a builder's fields


@given(st.text())
def test_only_printable_text_is_printed(text: str) -> None:
    assert printable(text).isprintable()
    assert printable_lines(text).replace("\n", "").isprintable()


def test_text_from_outside_cannot_control_the_terminal() -> None:
    hostile = summary(
        sources=[InventoryRows(HOSTILE, 1)], notes=[HOSTILE], stopped_because=HOSTILE, exit_code=6
    )
    plan = Plan(
        sources=(Source(HOSTILE, 1),),
        rows_read=1,
        rejected={},
        planned=1,
        excluded={},
        batches=1,
        groups=(PlanGroup(account_name=HOSTILE, sku_number=HOSTILE, devices=1, batches=1),),
        notes=(HOSTILE,),
    )
    need = LicenseNeed(account_name=HOSTILE, sku_number=HOSTILE, needed=1, left=None, is_irrevocable=False)
    expected = Estimate(
        devices=1, requests=1, requests_per_second=1.0, seconds=1.0, basis=HOSTILE, licenses=[need]
    )
    for text in (describe(hostile, Path("run")), describe_plan(plan, Path("run"), expected)):
        assert all(line.isprintable() for line in text.split("\n"))


def test_warnings_cannot_control_the_terminal(tmp_path: Path) -> None:
    people = io.StringIO()
    with RunLog(tmp_path / "run.log", secrets=[], people=people) as log:
        log.logger(run_id="r").warning(HOSTILE, reason=HOSTILE, inner=[HOSTILE])
    assert all(line.isprintable() for line in people.getvalue().split("\n"))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "Finished: 7 accepted, 1 failed, 2 in doubt, 2 rows rejected"),
        ({"exit_code": None}, "Interrupted (killed, or the machine stopped): 7 accepted"),
        (
            {"exit_code": 6, "stopped_because": "no progress"},
            "Stopped early: no progress; 7 accepted, 1 failed, 2 in doubt",
        ),
        ({"exit_code": 6}, "Continue: batchlic resume runs/r"),
        ({"statuses": {"pending": 10}, "exit_code": None}, "Continue: batchlic resume runs/r"),
    ],
)
def test_the_headline_says_how_a_run_ended_and_what_to_do(changes: dict[str, object], text: str) -> None:
    assert text in describe(summary(**changes), Path("runs/r"))


def test_a_reason_that_says_how_to_resume_is_the_only_advice() -> None:
    reason = "the canary failed: batchlic resume runs/r --canary-failures 1"
    assert "Continue" not in describe(summary(exit_code=6, stopped_because=reason), Path("runs/r"))


def test_a_reason_without_the_folder_is_followed_by_the_whole_command() -> None:
    reason = "stopped by SIGTERM; continue with batchlic resume"
    text = describe(summary(exit_code=6, stopped_because=reason), Path("runs/r"))
    assert "  Continue: batchlic resume runs/r\n" in f"{text}\n"


def test_a_rehearsal_continues_on_the_sandbox() -> None:
    text = describe(summary(exit_code=6, carrier="sandbox"), Path("runs/r"))
    assert "  Continue: batchlic resume runs/r --sandbox\n" in f"{text}\n"


def test_a_folder_with_a_space_can_be_pasted_with_its_command() -> None:
    assert "batchlic resume 'my runs/r'" in describe(summary(exit_code=6), Path("my runs/r"))


def test_the_output_names_the_file_of_each_problem() -> None:
    text = describe(summary(), Path("runs/r"))
    assert "rejected: see runs/r/rejects.parquet" in text
    assert "in_doubt: see runs/r/results.parquet" in text
    assert "Continue" not in text
