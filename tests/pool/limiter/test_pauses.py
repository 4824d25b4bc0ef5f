"""What the carrier told an earlier session holds for this one (promise J)."""

import trio
from trio.testing import MockClock

from batchlic.pool.limiter.pace import Pace


def test_j_nobody_starts_while_a_pace_is_held() -> None:
    async def first_starts_at() -> float:
        began = trio.current_time()
        pace = Pace(max_concurrency=4)
        pace.hold(30)
        pace.hold(10)
        await pace.wait_turn()
        return trio.current_time() - began

    assert 30 <= trio.run(first_starts_at, clock=MockClock(autojump_threshold=0)) < 31
