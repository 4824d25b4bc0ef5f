"""Commands in the process of the tests may change its environment: it is the same again after them."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def environment() -> Iterator[None]:
    """Restore the environment."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
