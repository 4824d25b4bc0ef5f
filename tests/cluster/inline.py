"""Workers in threads of the test instead of Dask, and what a run by them needs."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchlic.cluster.coordinator import Coordinator
from batchlic.cluster.messages import Told
from batchlic.cluster.worker import change_bounds, send_shard
from batchlic.events import EventStream, RunEvent
from batchlic.job import Job, make_job
from batchlic.runs.folder import RunFolder
from batchlic.runs.run import start
from batchlic.runs.target import Target
from batchlic.settings import load_settings
from batchlic.state import with_state
from batchlic.targets import open_target
from batchlic.writer.summary import Summary
from tests.cluster.farm import inventory
from tests.endtoend.program import FLEXIBLE, keys


class InlineWorkers:
    """Does what `batchlic.cluster.connection.Workers` does, in threads. `sent` is all that Dask would get."""

    def __init__(self, count: int = 2) -> None:
        self._count = count
        self._threads = ThreadPoolExecutor(count)
        self._hear: Callable[[str], None] = lambda _: None
        self.joining = 0
        """Workers that join after the first count."""
        self._at_work: list[Future[bytes]] = []
        self.most_at_once = 0
        self.sent: list[bytes] = []
        self.told: list[str] = []
        self.change: Callable[[bytes], bytes] = lambda encoded: encoded
        """Changes a task before a worker gets it."""

    def count(self) -> int:
        count, self._count = self._count, self._count + self.joining
        self.joining = 0
        return count

    def start(self, _name: str, encoded: bytes, _topic: str) -> Future[bytes]:
        self.sent.append(encoded)
        task = self._threads.submit(send_shard, self.change(encoded), self._tell)
        self._at_work = [other for other in self._at_work if not other.done()] + [task]
        self.most_at_once = max(self.most_at_once, len(self._at_work))
        return task

    def listen(self, _topic: str, hear: Callable[[str], None]) -> None:
        self._hear = hear

    def set_bounds(self, session: str, encoded: bytes) -> None:
        change_bounds(session, encoded)

    def _tell(self, told: Told) -> None:
        self.told.append(msgspec.json.encode(told).decode())
        self._hear(self.told[-1])


class Home:
    """A folder with an inventory, a store, and workers for a run there."""

    def __init__(self, path: Path, store: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.store = store
        self.folder = RunFolder(path / "run")
        self.workers = InlineWorkers()
        self.events: list[RunEvent] = []
        monkeypatch.chdir(path)
        for name, value in keys(url, BATCHLIC_STORE=store, BATCHLIC_LEASE_S="5").items():
            monkeypatch.setenv(name, value)

    def job(self, devices: int, accounts: int = 3, **tables: Any) -> Job:  # noqa: ANN401 - of a job file
        """A job that assigns licenses to so many devices on some accounts, ten in a request."""
        inventory(self.path, 0, devices, accounts)
        content: dict[str, Any] = {
            "action": "assign",
            "inventory": {"files": [str(self.path / "fleet.csv")]},
            "license": {"sku": FLEXIBLE},
            "ledger": {"use": False},
            "report": {"write": False},
            **tables,
        }
        content["limits"] = {"batch_size": 10, **tables.get("limits", {})}
        return make_job(content, {}, where="test")

    def run(self, job: Job, *, target: Target | None = None) -> Summary:
        """Run a job by the workers."""
        ready = with_state(job, self.folder, run_dir=self.folder.path)
        events = EventStream()
        with self._target(target) as chosen, events.attached("test", self.events.append):
            return start(
                ready, self.folder, chosen, run_id="run-1", events=events, send=Coordinator(self.workers)
            )

    @contextmanager
    def _target(self, given: Target | None) -> Iterator[Target]:
        if given is not None:
            yield given
            return
        with open_target(None, load_settings()) as target:
            yield target
