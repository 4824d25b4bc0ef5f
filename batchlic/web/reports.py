"""The reports of runs that have ended, as sections of a page, remembered until the run changes."""

import threading
from collections import OrderedDict

from markupsafe import Markup

from batchlic.errors import RunFolderError
from batchlic.runs.report import report
from batchlic.web.catalog import Entry, Version
from batchlic.writer.report.page import NO_PLOTS, render_parts
from batchlic.writer.report.plots import PlotsMissing, draw

_REMEMBERED = 16


class Reports:
    """Makes one report at a time: that of ten million devices takes some seconds and a core."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: OrderedDict[str, tuple[Version, Markup]] = OrderedDict()

    def sections(self, entry: Entry) -> Markup:
        """The sections of the report. Raises RunFolderError, NoAccess or StoppedEarly if it can't be made."""
        if entry.folder is None:
            raise RunFolderError(entry.run.problem or f"{entry.run.run_dir}: can't be read")
        with self._lock:
            known = self._made.pop(entry.key, None)
            if known is None or known[0] != entry.version:
                made = report(entry.folder)
                try:
                    plots = draw(made)
                except PlotsMissing:
                    plots = NO_PLOTS
                known = entry.version, render_parts(made, plots)
            self._made[entry.key] = known
            while len(self._made) > _REMEMBERED:
                self._made.popitem(last=False)
        return known[1]
