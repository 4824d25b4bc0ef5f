"""Options to wait for callbacks: wrong ones are refused before anything is sent."""

from pathlib import Path

import pytest

from batchlic.errors import ExitCode
from tests.endtoend.program import ACCOUNT, FLEXIBLE, batchlic, fleet

ASSIGN = ("assign", "fleet.csv", "--account", ACCOUNT, "--sku", FLEXIBLE, "--sandbox", "--run-dir", "run")


@pytest.mark.parametrize(
    ("waiting", "says"),
    [
        (["--wait-callbacks", "soon", "--listen-port", "0"], "soon"),
        (["--wait-callbacks", "1m"], "--store"),
        (["--listen-port", "0"], "--wait-callbacks"),
    ],
)
def test_wrong_wait_options_are_refused_before_anything_is_sent(
    tmp_path: Path, waiting: list[str], says: str
) -> None:
    fleet(tmp_path / "fleet.csv", 10)
    ended = batchlic(*ASSIGN, *waiting, cwd=tmp_path)
    assert ended.code == ExitCode.USAGE, ended.err
    assert says in ended.err
    assert not (tmp_path / "run").exists()
