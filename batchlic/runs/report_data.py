"""Collects the data of a run's report, and writes report.html when a session ends."""

import os
from collections.abc import Callable, Mapping, Sequence

import polars as pl

from batchlic.carrier.catalog import LicenseType
from batchlic.chunker import DeviceStatus
from batchlic.chunker.schema import REJECTS
from batchlic.errors import NoAccess, RunFolderError
from batchlic.figures import time_in_files
from batchlic.job import Job
from batchlic.journal import JournalQueries
from batchlic.reader.validation.reasons import explanation_of
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import sha256_of
from batchlic.runs.related import RelatedRun, nested_runs
from batchlic.runs.staging import recorded_path
from batchlic.runs.states import state_frames_of
from batchlic.writer.device_states import RESULTS
from batchlic.writer.report.data import Example, Link, Rejects, Report, Session, shown
from batchlic.writer.report.devices import (
    COLUMNS,
    COUNTED,
    EXAMPLES,
    LICENSES_SHOWN,
    NEEDS_DETAILS,
    DeviceTotals,
)
from batchlic.writer.report.requests import batch_attempts, latency, request_table, timeline
from batchlic.writer.summary import Summary
from batchlic.writer.tables import explain_damage, read_table

PLOTS_FROM_S = 5.0
"""Seconds of sending from which the report at the end of a session has plots. They cost a second of CPU time,
and say little about a shorter run."""

_ROWS_PER_FRAME = 100_000

_CELL_SHOWN = 60
"""Characters of a rejected identifier that the report shows; its message quotes more of it."""


def write_at_end(
    job: Job, folder: RunFolder, journal: JournalQueries, summary: Summary, made_at: int
) -> None:
    """Write report.html after the files of a session are published.

    The libraries are imported here: a run without a report does without them.
    """
    from batchlic.writer.report.page import write_report  # noqa: PLC0415 - as the docstring says

    report = collect(
        job, folder, journal, lambda _: summary, made_at=made_at, links=nested_runs(folder, journal.identity)
    )
    write_report(folder.report, report, with_plots=journal.sending().seconds >= PLOTS_FROM_S)


def collect(
    job: Job,
    folder: RunFolder,
    journal: JournalQueries,
    summarize: Callable[[Mapping[DeviceStatus, int]], Summary],
    *,
    made_at: int,
    links: Sequence[RelatedRun],
    is_at_work: bool = False,
) -> Report:
    """The data of the report of a run. `summarize` gets the devices by status.

    `made_at` is in microseconds since 1970. Memory grows by some 40 bytes a request. Raises RunFolderError or
    NoAccess if a file of the run can't be read; without rejects.parquet, the report has no examples.
    """
    identity = journal.identity
    totals = _totals(folder, journal)
    licenses = totals.licenses(identity.licenses)
    requests = request_table(journal.attempts())
    lifetime = [sku for sku, license in job.skus.items() if license is LicenseType.LIFETIME]
    return Report(
        made_at=time_in_files(made_at),
        run_dir=os.path.abspath(folder.path),  # noqa: PTH100 - the name, not the target of a link
        is_at_work=is_at_work,
        summary=summarize(totals.statuses),
        from_sku=job.license.from_sku,
        to_sku=identity.to_sku,
        max_rejects=job.limits.max_rejects,
        steps=totals.steps(),
        rejects=_rejects(folder, identity.rejected),
        failures=totals.failures(),
        other_failures=totals.other_failures,
        licenses=licenses[:LICENSES_SHOWN],
        other_licenses=len(licenses[LICENSES_SHOWN:]),
        doubts=totals.doubts(lifetime),
        settled_by=totals.settled_by,
        timeline=timeline(requests),
        latency=latency(requests),
        attempts=batch_attempts(requests),
        sessions=[
            Session(time_in_files(end.started_at), time_in_files(end.ended_at), end.exit_code)
            for end in journal.session_ends()
        ],
        links=[Link(run.relation.replace("_", " "), run.run_id, run.run_dir) for run in links],
    )


def _totals(folder: RunFolder, journal: JournalQueries) -> DeviceTotals:
    """The totals of the device states.

    They are read from results.parquet if it is up to date: parquet reads only the columns that are counted,
    and the rows of which the report has details.
    """
    totals = DeviceTotals()
    results = recorded_path(folder.results, journal)
    recorded = journal.file_hashes().get(folder.results.name)
    if journal.final_session_end is None or not results.is_file() or sha256_of(results) != recorded:
        for frame in state_frames_of(folder, journal):
            totals.add(frame)
        return totals
    with explain_damage(results):
        table = read_table(results, RESULTS)
        totals.add_counts(table.group_by(COUNTED).len().collect(engine="streaming"))
        detailed = table.filter(NEEDS_DETAILS).select(COLUMNS)
        for frame in detailed.collect_batches(chunk_size=_ROWS_PER_FRAME, maintain_order=True):
            totals.add_details(frame)
    return totals


def _rejects(folder: RunFolder, rejected: Mapping[str, int]) -> list[Rejects]:
    """The rejected rows by reason, most first."""
    examples = _reject_examples(folder, rejected)
    found = []
    for reason, rows in sorted(rejected.items(), key=lambda item: -item[1]):
        explanation = explanation_of(reason)
        found.append(
            Rejects(
                reason=reason,
                rows=rows,
                when=explanation.when if explanation else "a reason of another version of batchlic",
                advice=explanation.advice if explanation else "read the message of the row",
                examples=examples[reason],
            )
        )
    return found


def _reject_examples(folder: RunFolder, rejected: Mapping[str, int]) -> dict[str, list[Example]]:
    """The first rejected rows for each reason; none if rejects.parquet can't be read."""
    examples: dict[str, list[Example]] = {reason: [] for reason in rejected}
    missing = sum(min(rows, EXAMPLES) for rows in rejected.values())
    if not missing:
        return examples
    device = pl.coalesce("imei", "iccid").alias("device")
    try:
        rejects = read_table(folder.rejects, REJECTS).select("reason", "source", "row", device, "message")
        with explain_damage(folder.rejects):
            for frame in rejects.collect_batches(chunk_size=_ROWS_PER_FRAME, maintain_order=True):
                heads = frame.group_by("reason", maintain_order=True).head(EXAMPLES)
                for reason, source, row, cell, message in heads.iter_rows():
                    if len(examples.get(reason, "...")) < EXAMPLES:
                        example = Example(
                            shown(source) or "", row, shown(cell, _CELL_SHOWN) or "", shown(message) or ""
                        )
                        examples[reason].append(example)
                        missing -= 1
                if not missing:
                    break
    except (RunFolderError, NoAccess):
        pass  # the journal has the numbers
    return examples
