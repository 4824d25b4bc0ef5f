"""`make bench-listener`: compare the listener with the same server without storing; then measure reconciling.

The server and the load generator are two processes on one machine. The benchmark prints the machine's load,
because other work slows it down. Compare figures of one run of the benchmark only. Each connection waits for
the acknowledgement of its message before it posts the next one. `CPU` is the server's CPU time for one
message, or that of reconciling.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import structlog
import uvloop

from batchlic.callbacks.access import Access, parse_networks
from batchlic.callbacks.listener import Listener
from batchlic.callbacks.messages import StoredMessage
from batchlic.callbacks.server import ListenerOptions, listen, serve
from batchlic.callbacks.store import Store
from batchlic.carrier.credentials import Secret
from batchlic.runs.reconcile import reconcile
from tests.callbacks.builders import PASSWORD, USERNAME, body, messages_of, submitted_run

OPTIONS = ListenerOptions(port=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--connections", type=int, nargs="+", default=[64])
    parser.add_argument("--devices", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--serve", choices=[server.__name__ for server in SERVERS], help=argparse.SUPPRESS)
    parser.add_argument("--reconcile", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        next(server for server in SERVERS if server.__name__ == arguments.serve)()
        return
    if arguments.reconcile:
        _reconcile(arguments.reconcile)
        return
    for connections in arguments.connections:
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        print(
            f"{'server':>12} {'connections':>12} {'messages/s':>11} {'p50':>8} {'p99':>8} {'longest':>8} "
            f"{'CPU':>7}"
        )
        rates = [_load(server, connections, arguments.messages) for server in SERVERS]
        print(f"durable / not storing: {rates[0] / rates[1]:.2f}\n")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{'devices':>12} {'reconciled':>12} {'CPU':>8} {'again':>8} {'peak memory':>12}")
    for devices in arguments.devices:
        subprocess.run([sys.executable, __file__, "--reconcile", str(devices)], check=True)


def durable() -> None:
    listen(OPTIONS, _access(), Store.open(os.environ["BENCH_STORE"]))


def not_storing() -> None:
    async def discard(_: StoredMessage) -> None:
        """Store nothing, so that the server acknowledges at once."""

    logger = structlog.wrap_logger(None)
    serve(Listener(_access(), keep=discard, check=lambda: None, logger=logger), OPTIONS, logger)


SERVERS: tuple[Callable[[], None], ...] = (durable, not_storing)


def _access() -> Access:
    loopback = parse_networks(["127.0.0.1"], where="bench")
    return Access(username=Secret(USERNAME), password=Secret(PASSWORD), sources=loopback)


@contextmanager
def _server(server: Callable[[], None], store: Path) -> Iterator[str]:
    command = [sys.executable, __file__, "--serve", server.__name__]
    environment = {**os.environ, "BENCH_STORE": str(store)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
        process.terminate()


def _load(server: Callable[[], None], connections: int, messages: int) -> float:
    cpu = _cpu_of_children()
    with TemporaryDirectory(prefix="batchlic-bench-", dir=".") as folder:
        store = Path(folder) / "store.db"
        with _server(server, store) as url:
            bodies = iter([_request(url, number) for number in range(messages)])
            began = time.perf_counter()
            waits = sorted(uvloop.run(_post_all(url, bodies, connections)))
            rate = messages / (time.perf_counter() - began)
        if server is durable:
            with closing(Store.open(str(store))) as stored:
                assert stored.extent()[0] == messages
    p50, p99 = waits[messages // 2] * 1000, waits[messages * 99 // 100] * 1000
    print(
        f"{server.__name__.replace('_', ' '):>12} {connections:>12,} {rate:>11,.0f} {p50:>5.1f} ms "
        f"{p99:>5.1f} ms {waits[-1] * 1000:>5.1f} ms {(_cpu_of_children() - cpu) / messages * 1e6:>4.0f} us"
    )
    return rate


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _request(url: str, number: int) -> bytes:
    """Return one HTTP request. Each hundred messages share a requestId, like the devices of a batch."""
    content = json.dumps(body(f"c3f3d17c-79ff-4b35-82df-{number // 100:012d}", f"{number:015d}")).encode()
    path = urlsplit(url).path
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def _post_all(url: str, requests: Iterator[bytes], connections: int) -> list[float]:
    address = urlsplit(url)
    assert address.port is not None
    waits: list[float] = []

    async def post() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
        for request in requests:
            began = time.perf_counter()
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n{}")
            waits.append(time.perf_counter() - began)
            assert answer.startswith(b"HTTP/1.1 200 "), answer
        writer.close()

    await asyncio.gather(*(post() for _ in range(connections)))
    return waits


def _reconcile(devices: int) -> None:
    with TemporaryDirectory(prefix="batchlic-bench-", dir=".") as path:
        folder = submitted_run(Path(path) / "run", devices)
        store = Store.open(str(Path(path) / "store.db"))
        store.write(messages_of(folder))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        began, cpu = time.perf_counter(), time.process_time()
        assert reconcile(folder, store).statuses == {"confirmed": devices}
        first, cpu = time.perf_counter(), time.process_time() - cpu
        reconcile(folder, store)
        again = time.perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        times = f"{first - began:>10.1f} s {cpu:>6.1f} s {again - first:>6.1f} s"
        print(f"{devices:>12,} {times} {peak:>9,.0f} MB ({before:,.0f})")


if __name__ == "__main__":
    main()
