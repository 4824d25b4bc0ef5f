"""One sandbox carrier for the tests of a module, and a state folder for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from batchlic import SandboxConfig, Settings
from batchlic.sandbox.config import Poison
from tests.api.builders import login
from tests.endtoend.program import imei
from tests.forking import serving

REFUSED = imei(3)
"""A device that the carrier refuses."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(SandboxConfig(poison=(Poison(identifier=REFUSED),))) as url:
        yield url


@pytest.fixture
def settings(url: str, tmp_path: Path) -> Settings:
    return login(url, tmp_path / "state")
