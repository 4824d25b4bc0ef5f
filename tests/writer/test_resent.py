"""Devices sent again after a lost answer: found by device, and exported."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from batchlic.carrier.answers import Answer
from batchlic.runs.export import export
from batchlic.writer.export import Format, Selection
from batchlic.writer.resent import resent_devices
from tests.callbacks.builders import accepted, lost, submitted_run
from tests.writer.builders import JournaledAttempt, journal_of

ACCEPTED = JournaledAttempt(1, request_id="r", http_status=200)
DUPLICATE = JournaledAttempt(1, http_status=409)
UNANSWERED = JournaledAttempt(1, outcome=None)
LOST = JournaledAttempt(1, outcome="ambiguous", http_status=502)
REFUSED = JournaledAttempt(1, outcome="refused", http_status=400)
THROTTLED = JournaledAttempt(1, outcome="throttled", http_status=429)


def part(offsets: Sequence[int], of: JournaledAttempt) -> JournaledAttempt:
    return JournaledAttempt(
        1, offsets, outcome=of.outcome, request_id=of.request_id, http_status=of.http_status
    )


@pytest.mark.parametrize(
    ("attempts", "offsets"),
    [
        ([ACCEPTED], []),
        ([LOST], []),
        ([UNANSWERED, ACCEPTED], [0, 1, 2]),
        ([LOST, THROTTLED, ACCEPTED], [0, 1, 2]),
        ([LOST, LOST], [0, 1, 2]),
        ([THROTTLED, ACCEPTED], []),
        ([LOST, REFUSED], []),
        ([LOST, DUPLICATE], []),
        ([LOST, REFUSED, part([0], ACCEPTED), part([1, 2], REFUSED)], [0]),
        ([REFUSED, part([0, 1], LOST), part([2], ACCEPTED), part([0, 1], ACCEPTED)], [0, 1]),
    ],
)
def test_a_device_sent_again_after_a_lost_answer_is_found(
    attempts: list[JournaledAttempt], offsets: list[int]
) -> None:
    with closing(journal_of(attempts, [3])) as journal:
        assert resent_devices(journal).rows() == [(1, offset) for offset in offsets]


def test_a_migration_takes_back_what_a_lost_request_did() -> None:
    with closing(journal_of([LOST, ACCEPTED], [3], to_sku="SIMSec-IoT-Lt")) as journal:
        assert resent_devices(journal).is_empty()


def test_the_export_lists_these_devices_and_no_others(tmp_path: Path) -> None:
    def answered(batch_id: int) -> list[Answer | None]:
        return [*lost(batch_id), *accepted(batch_id)] if batch_id == 2 else accepted(batch_id)

    folder = submitted_run(tmp_path / "run", 5, batch_size=2, answered=answered)
    assert export(folder, Selection.RESENT, Format.CSV, tmp_path / "resent.csv") == 2
    assert pl.read_csv(tmp_path / "resent.csv")["row"].to_list() == [3, 4]
