"""What a command does after sending: it waits for callbacks, and continues after a canary."""

from typing import TYPE_CHECKING

from batchlic.cli.callbacks import wait_for_callbacks
from batchlic.cli.options import WaitOptions

if TYPE_CHECKING:
    from batchlic.events import EventStream
    from batchlic.job import Job
    from batchlic.runs.folder import RunFolder
    from batchlic.runs.submit import Send
    from batchlic.runs.target import Target
    from batchlic.writer.summary import Summary


def after_sending(
    wait: WaitOptions,
    job: "Job",
    folder: "RunFolder",
    target: "Target",
    summary: "Summary",
    *,
    events: "EventStream",
    send: "Send | None",
) -> "Summary":
    """Wait for callbacks as the options say. After those of a canary, the other devices are sent.

    `job` is that of the session that sent, and has the rules for the canary. `send` is what sent its devices.
    """
    from batchlic.events import Phase
    from batchlic.runs.canary import awaits_callbacks
    from batchlic.runs.run import resume

    if wait.wait_callbacks is None:
        return summary
    if summary.stopped_because is not None and awaits_callbacks(folder, job.canary):
        with events.phase(Phase.WAITING):
            wait_for_callbacks(wait, folder, is_over=lambda _: not awaits_callbacks(folder, job.canary))
        summary = resume(
            folder,
            target,
            canary_failures=job.canary.failures,
            canary_confirmed=True,
            events=events,
            send=send,
        )
    if summary.stopped_because is not None:
        return summary
    with events.phase(Phase.WAITING):
        return wait_for_callbacks(wait, folder)
