"""What all tests share: async tests run on asyncio and on trio, and no test fails for being slow.

Of what is invented at random there is little by default; `make fuzz` invents more (EXAMPLES).
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
