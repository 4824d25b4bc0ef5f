"""Run the program and print the CPU seconds of the threads of its observers, and those of the whole process.

Both come from the same run, so that a machine that becomes faster or slower changes their ratio little.
"""

import threading
import time
from collections import defaultdict

from batchlic.cli.app import main

OBSERVERS = ("batchlic metrics", "batchlic OpenTelemetry", "Otel")
"""How the names of the threads of metrics and OpenTelemetry begin. Progress and log are part of each run."""


def run() -> None:
    """Run the program with the arguments of this process."""
    seconds = defaultdict[str, float](float)
    run_thread = threading.Thread.run

    def timed(thread: threading.Thread) -> None:
        run_thread(thread)
        seconds[thread.name] += time.thread_time()

    threading.Thread.run = timed  # type: ignore[assignment, method-assign]
    try:
        main()
    finally:
        observers = sum(own for name, own in seconds.items() if name.startswith(OBSERVERS))
        print(observers, time.process_time())


if __name__ == "__main__":
    run()
