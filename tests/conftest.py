"""Settings of all tests: async tests run on asyncio and on trio, and no test fails because it is slow.

Property tests have few examples by default; `make fuzz` runs more (EXAMPLES).
"""

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "batchlic",
    max_examples=int(os.environ.get("EXAMPLES", "50")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("batchlic")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)
