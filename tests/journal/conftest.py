"""The backends of journals: each test of journals in general runs on both."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journal.backends import Backend


@pytest.fixture(params=["file", "store"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    store = request.getfixturevalue("store") if request.param == "store" else None
    found = Backend(tmp_path, store)
    yield found
    found.end()
