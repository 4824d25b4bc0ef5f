"""Settings of all tests: async tests run on asyncio and on trio, and no test fails because it is slow.

A shell lets its background jobs ignore SIGQUIT, nohup does so with SIGHUP, and children inherit that. Here,
signals are as usual.

Property tests have few examples by default; `make fuzz` runs more (EXAMPLES). Garbage is
collected rarely: that saves a twentieth of the CPU time.
"""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.postgresql import PostgreSQL

settings.register_profile(
    "batchlic",
    max_examples=int(os.environ.get("EXAMPLES", "20")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("batchlic")
gc.set_threshold(50_000)
for number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported and collected stays until the end


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # libraries report what is never freed as leaks


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def no_program_is_left() -> Iterator[None]:
    """A test that fails ends the programs it started, so that the next one does not fail for them."""
    forking = sys.modules.get("tests.forking")  # most tests start no program
    with nullcontext() if forking is None else forking.ending_programs():
        yield


@pytest.fixture(scope="session")
def postgresql() -> Iterator["PostgreSQL"]:
    """A PostgreSQL server of this test session. Stores that tests have opened are closed before it ends."""
    from batchlic.database import postgresql as stores  # noqa: PLC0415 - most tests need no database
    from tests.postgresql import running_server  # noqa: PLC0415 - nor its driver

    with running_server() as server:
        yield server
        for store in stores._stores.values():
            store.engine.dispose()


@pytest.fixture(scope="session")
def store(postgresql: "PostgreSQL") -> str:
    """The name of a store of this test session, which many runs share."""
    from batchlic.database.postgresql import remember  # noqa: PLC0415

    return remember(postgresql.new_database("shared"))


@pytest.fixture(scope="module")
def own_store(postgresql: "PostgreSQL", request: pytest.FixtureRequest) -> str:
    """The name of a store for the tests of one module."""
    from tests.stores import new_store  # noqa: PLC0415

    return new_store(postgresql, request.module.__name__.replace(".", "_").lower())


@pytest.fixture
def empty_store(own_store: str) -> str:
    """The name of a store without any rows."""
    from tests.stores import empty  # noqa: PLC0415

    empty(own_store)
    return own_store
