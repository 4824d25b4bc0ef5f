"""The carrier's wall clock."""

import time
from datetime import UTC, datetime

import anyio


class WallClock:
    """A wall clock that runs with anyio's clock from its first use on, so a mock clock moves it too."""

    def __init__(self) -> None:
        self._offset: float | None = None

    def now(self) -> datetime:
        """The time in UTC."""
        if self._offset is None:
            self._offset = time.time() - anyio.current_time()
        return datetime.fromtimestamp(self._offset + anyio.current_time(), UTC)
