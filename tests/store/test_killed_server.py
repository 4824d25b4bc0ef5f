"""kill -9 of PostgreSQL in the middle of a run: what it confirmed is there after its restart."""

import os
import random
import time
from functools import partial
from pathlib import Path

from tests.endtoend.program import end, until
from tests.forking import Program
from tests.postgresql import running_server
from tests.store.site import BATCH_SIZE, Site, assert_finished, site

KILLS = int(os.environ.get("STORE_KILLS", "2"))


def test_books_equal_results_after_the_server_was_killed(tmp_path: Path) -> None:
    dice, devices = random.Random(KILLS), 20 * BATCH_SIZE * KILLS
    with running_server() as server, site(tmp_path, server, latency=0.05, devices=devices) as at:
        ends = []
        for _ in range(KILLS):
            process, sent = at.assign(), at.sent()
            until(partial(has_moved, at, process, sent))
            time.sleep(dice.uniform(0, 0.2))  # where the server is killed is left to chance
            server.kill()
            ends.append(end(process))
            server.restart()
            at.until_lapsed()
        ended = at.finish()
        assert {found.code for found in ends} <= {0, 3, 6}
        assert not [found for found in [*ends, ended] if "Traceback" in found.err]
        assert_finished(at, ended)


def has_moved(at: Site, process: Program, sent: int) -> bool:
    return at.sent() > sent or process.poll() is not None
