"""What a release has to agree on: version, changelog, man page, image and tag."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.man_page import PAGE, man_page
from tests.packaging.release import problems, released

ROOT = Path(__file__).parents[2]
FILES = (
    "CHANGELOG.md",
    "Containerfile",
    "pyproject.toml",
    "docs/man/batchlic.1",
    "jobs/schedule/cronjob.yaml",
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_version_changelog_man_page_and_image_agree() -> None:
    assert problems(ROOT, []) == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_version_is_a_problem(checkout: Path, name: str) -> None:
    path, version = checkout / name, released(ROOT).version
    path.write_text(path.read_text(encoding="utf-8").replace(version, "99.0.0", 1), encoding="utf-8")
    assert any(name in problem for problem in problems(checkout, []))


@pytest.mark.parametrize(("tag", "count"), [("v{}", 0), ("v99.0.0", 1), ("nightly", 0)])
def test_a_tag_of_a_version_is_that_of_the_project(checkout: Path, tag: str, count: int) -> None:
    assert len(problems(checkout, [tag.format(released(ROOT).version)])) == count


def test_the_man_page_is_that_of_the_live_commands() -> None:
    assert PAGE.read_text(encoding="utf-8") == man_page(released(ROOT)), "run `make man`"


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff")
def test_groff_shows_the_man_page_without_a_warning() -> None:
    done = subprocess.run(
        ["groff", "-ww", "-man", "-Tutf8", PAGE],  # noqa: S607 - wherever it is installed
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stderr, "batchlic resume" in done.stdout) == ("", True)
