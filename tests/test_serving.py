"""Servers: what they ask of the operating system."""

import resource

import pytest

from batchlic import serving


def test_a_system_that_allows_fewer_open_files_does_not_stop_a_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def refuse(_: int, limits: tuple[int, int]) -> None:
        asked.append(limits)
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    serving._raise_descriptor_limit()
    assert asked
