"""The backends of runs: tests of recovery in general run on both, and those of migrations on either."""

import os
from zlib import crc32

import pytest

from tests.recovery import builders

BACKEND = os.environ.get("BACKEND", "")
"""`store` or `file`: the backend of all tests that run on either."""


@pytest.fixture(params=["file", "store"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the jobs of a test keep their journals in files, and in a second run of the test in a store."""
    _use(request.param, request, monkeypatch)


@pytest.fixture
def either_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the jobs of a test keep their journals in files or in a store, by the name of the test."""
    by_name = ("file", "store")[crc32(request.node.name.encode()) % 2]
    _use(BACKEND or by_name, request, monkeypatch)


def _use(backend: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    store = request.getfixturevalue("empty_store") if backend == "store" else None
    monkeypatch.setattr(builders, "STORE", store)
