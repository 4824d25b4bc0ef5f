"""The journal in PostgreSQL beside the one in SQLite: durable writes a second, and CPU a request."""

import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import anyio
import psutil

from batchlic.database import leases
from batchlic.database.postgresql import open_store
from batchlic.journal import Journal, StorePlace
from tests.benchmarks.journal import RATE, WORKERS, fill, fsync_s, identity_of, new_journal, paced
from tests.postgresql import running_server

DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "shared_buffers": "128MB"}
"""Settings of the server: those of a real one, not those of tests."""
LEGEND = f"""\
writes/s: durable intents and answers a second, 500 tasks at once, as fast as the journal commits them.
wait: milliseconds a request, for intent and answer, with {WORKERS} workers at {RATE:,.0f} requests/s.
CPU, server: milliseconds of CPU a request, of the process itself and of the PostgreSQL server.
bytes: on disk, a request, with its indexes.
of SQLite: the figure divided by that of SQLite."""


class Cost(NamedTuple):
    """What a journal costs. `writes_s`: a second; the others: milliseconds a request."""

    writes_s: float
    wait_ms: float
    cpu_ms: float
    server_ms: float
    bytes: float
    """On disk, a request."""


def compare(folder: Path, *, batches: int) -> None:
    """Print the costs of both kinds of journals, on the disk of `folder`."""
    print(f"Journals, {batches:,} requests\n{LEGEND}")
    print(f"{'':12}{'writes/s':>10}{'wait':>8}{'CPU':>8}{'server':>8}{'bytes':>8}")
    bare = anyio.run(paced, None, batches, backend_options={"use_uvloop": True}).cpu / batches * 1000
    new_journal(file := folder / "journal.db", batches).close()
    sqlite = _cost(lambda: Journal.open(file), batches, bare, lambda: 0.0, lambda: file.stat().st_size)
    _print("SQLite", sqlite)
    with running_server(**DURABLE) as server:
        store = open_store(server.new_database("scale"))
        place = StorePlace(store.name, "bench", "bench")
        with leases.held(store, place.lease_key, what="bench", holder="the benchmark"):
            place.create(identity_of(batches), created_at=0).close()
            cpu = _cpu_of(server.folder / "data" / "postmaster.pid")
            shared = _cost(place.open, batches, bare, cpu, lambda: int(server.execute(_SIZE, "scale")[0][0]))
    _print("PostgreSQL", shared)
    ratios = [found / of if of else math.nan for found, of in zip(shared, sqlite, strict=True)]
    print(f"{'of SQLite':12}{ratios[0]:10.2f}{ratios[1]:8.2f}{ratios[2]:8.2f}{'':8}{ratios[4]:8.2f}")
    print(f"One fsync by itself: {fsync_s(folder / 'probe') * 1000:.2f} ms")


def _cost(
    opened: Callable[[], Journal],
    batches: int,
    bare_ms: float,
    server_cpu: Callable[[], float],
    size: Callable[[], int],
) -> Cost:
    with closing(opened()) as journal:
        began = server_cpu()
        measured = anyio.run(paced, journal, batches, backend_options={"use_uvloop": True})
        server_ms = (server_cpu() - began) / batches * 1000
    with closing(opened()) as journal:
        filled = anyio.run(_filled, journal, batches)
    return Cost(
        2 * batches / filled,
        measured.waited / batches * 1000,
        measured.cpu / batches * 1000 - bare_ms,
        server_ms,
        size() / (2 * batches),  # the requests of both measurements
    )


async def _filled(journal: Journal, batches: int) -> float:
    began = anyio.current_time()
    await fill(journal, batches)
    return anyio.current_time() - began


def _cpu_of(pid_file: Path) -> Callable[[], float]:
    """Measures the CPU seconds of the server, of its processes that have ended, too."""
    server = psutil.Process(int(pid_file.read_text().splitlines()[0]))

    def measure() -> float:
        used = sum(server.cpu_times()[:4])
        for child in server.children():
            used += sum(child.cpu_times()[:2])
        return used

    return measure


_SIZE = "SELECT sum(pg_total_relation_size(c)) FROM unnest(ARRAY['intents', 'answers']::regclass[]) AS c"


def _print(name: str, cost: Cost) -> None:
    print(
        f"{name:12}{cost.writes_s:10,.0f}{cost.wait_ms:8.2f}{cost.cpu_ms:8.3f}{cost.server_ms:8.3f}{cost.bytes:8.0f}"
    )
