"""`batchlic report`: the report of a run as it stands now."""

from batchlic.runs.finalize import now, summarize
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import inspected, job_of, refuse_changed_plan
from batchlic.runs.related import related_runs
from batchlic.runs.report_data import collect
from batchlic.runs.status import as_it_stands
from batchlic.writer.report.data import Report


def report(folder: RunFolder) -> Report:
    """The data of the report of a run, from plan, journal and the callbacks so far.

    This writes nothing, and does not affect a session at work. Raises RunFolderError if nothing was sent from
    the folder, or if a file of the run is missing or damaged.
    """
    process = folder.process  # before the journal is read: a run that ends meanwhile is at its end there
    with inspected(folder) as journal:
        identity = journal.identity
        refuse_changed_plan(folder, identity)
        return collect(
            job_of(identity),
            folder,
            journal,
            lambda statuses: as_it_stands(
                summarize(journal, statuses, journal.final_session_end), folder, journal
            ),
            made_at=now(),
            links=related_runs(folder, identity),
            is_at_work=process is not None,
        )
