"""Checks of this machine: the disk room that a job needs."""

from pathlib import Path

import pytest

from batchlic.runs.check import check_state_folder


@pytest.mark.parametrize(("kept", "needed"), [(0, "0.3 GB"), (2, "0.5 GB")])
def test_kept_columns_need_disk_room_too(tmp_path: Path, kept: int, needed: str) -> None:
    room = list(check_state_folder(tmp_path, 1_000_000, kept))[-1]
    assert f"1,000,000 devices may take {needed}" in room.message
