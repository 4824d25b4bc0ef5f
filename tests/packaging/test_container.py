"""The Containerfile: what it copies and installs exists, and batchlic stops as process 1 of a container.

An image is built where an engine is (`make image`), not by these tests.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Containerfile").read_text(encoding="utf-8")


def _copied() -> list[str]:
    """What COPY takes from the checkout."""
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", TEXT, re.MULTILINE)
    return [source for line in lines for source in line.split()]


def _is_ignored(path: str) -> bool:
    """If .dockerignore leaves a path out: the last pattern that matches it or a folder above it counts."""
    ignored = False
    for pattern in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if pattern and not pattern.startswith("#"):
            wanted = pattern.removeprefix("!")
            if any(fnmatch(one, wanted) for one in (path, *map(str, Path(path).parents))):
                ignored = not pattern.startswith("!")
    return ignored


@pytest.mark.parametrize("source", _copied())
def test_what_is_copied_exists_and_is_not_ignored(source: str) -> None:
    assert (ROOT / source).exists()
    assert not _is_ignored(source)


@pytest.mark.parametrize("path", [".env", "runs/x/journal.db", "tests/conftest.py", ".git/config"])
def test_nothing_else_of_a_checkout_gets_into_a_build(path: str) -> None:
    assert _is_ignored(path)


def test_everything_that_the_wheel_needs_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    about = [project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"]
    for needed in (*wheel["packages"], *wheel["shared-data"], *about):
        assert any(Path(needed).is_relative_to(source) for source in _copied())


def test_the_image_has_known_extras() -> None:
    found = re.search(r"^ARG EXTRAS=(.*)$", TEXT, re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert found
    assert {*found[1].split(",")} <= extras.keys()


def test_the_last_user_of_each_image_has_a_number_and_is_not_root() -> None:
    assert re.findall(r"^USER (.*)$", TEXT, re.MULTILINE) == ["10001:10001"]


@pytest.fixture
def first_process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A sandbox as process 1 of its own PID namespace, where the kernel ignores signals without a handler."""
    namespace = ["unshare", "--pid", "--fork", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("a PID namespace needs unshare and root")
    with subprocess.Popen(
        [*namespace, sys.executable, "-m", "batchlic", "sandbox"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield process
        process.kill()


@pytest.mark.slow
def test_batchlic_as_process_1_ends_at_sigterm(first_process: subprocess.Popen[str]) -> None:
    assert first_process.stdout is not None
    assert "base_url" in first_process.stdout.readline()
    [child] = Path(f"/proc/{first_process.pid}/task/{first_process.pid}/children").read_text().split()
    os.kill(int(child), 15)
    assert first_process.wait(timeout=60) == 0
