"""How a run stands now, whether a session is at work or not."""

from collections import Counter
from contextlib import closing

import msgspec
import polars as pl

from batchlic.chunker import DeviceStatus
from batchlic.journal import Journal
from batchlic.runs.finalize import summarize
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import open_journal, refuse_changed_plan
from batchlic.runs.states import state_frames_of
from batchlic.writer.callback_outcomes import count_undecided, read_reports, unjudged_messages
from batchlic.writer.device_states import DEVICE_STATES
from batchlic.writer.in_doubt import StatusReport, doubts_in


def status(folder: RunFolder) -> StatusReport:
    """Summary of a run and its devices in doubt, from plan, journal and the callbacks so far.

    This writes nothing, and does not affect an active session.
    """
    with closing(open_journal(folder)) as journal:
        refuse_changed_plan(folder, journal.identity)
        statuses, in_doubt = _status_in_one_pass(folder, journal)
        doubts = doubts_in(in_doubt.lazy())
        summary = summarize(journal, statuses, journal.session_ends(), journal.final_session_end)
        reports = read_reports(folder.outcomes)
        return StatusReport(
            **msgspec.structs.asdict(summary),
            doubts=doubts,
            undecided=count_undecided(reports),
            unjudged=unjudged_messages(reports),
        )


def _status_in_one_pass(folder: RunFolder, journal: Journal) -> tuple[dict[DeviceStatus, int], pl.DataFrame]:
    """Devices by status, and those in doubt: of one moment, though a session may be at work."""
    statuses: Counter[str] = Counter()
    in_doubt = [pl.DataFrame(schema=DEVICE_STATES)]
    for frame in state_frames_of(folder, journal):
        statuses.update(dict(frame["status"].value_counts().iter_rows()))
        in_doubt.append(frame.filter(pl.col("status") == DeviceStatus.IN_DOUBT.value))
    return {DeviceStatus(status): statuses[status] for status in sorted(statuses)}, pl.concat(in_doubt)
