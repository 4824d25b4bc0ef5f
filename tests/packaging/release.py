"""Checks that version, changelog, man page and tag of a release agree: `make release-check`."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

HEADING = re.compile(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d\d-\d\d)$", re.MULTILINE)


class Release(NamedTuple):
    """The newest version in CHANGELOG.md, and its date (ISO 8601)."""

    version: str
    date: str


def released(root: Path) -> Release:
    """The newest release that CHANGELOG.md has. Raises ValueError if it has none."""
    if found := HEADING.search((root / "CHANGELOG.md").read_text(encoding="utf-8")):
        return Release(*found.groups())
    raise ValueError("CHANGELOG.md: no heading such as '## 1.2.3 - 2026-01-31'")


def problems(root: Path, tags: list[str]) -> list[str]:
    """What is not ready for a release, as sentences. A commit without `tags` is fine."""
    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    newest = released(root).version
    found = []
    if newest != version:
        found.append(f"CHANGELOG.md: the newest version is {newest}, but pyproject.toml has {version}")
    man_page = (root / "docs" / "man" / "batchlic.1").read_text(encoding="utf-8")
    if f'"batchlic {version}"' not in man_page.partition("\n")[0]:
        found.append(f"docs/man/batchlic.1 is not of version {version}: run `make man`")
    image = f"batchlic:{version}\n"
    if image not in (root / "jobs" / "schedule" / "cronjob.yaml").read_text(encoding="utf-8"):
        found.append(f"jobs/schedule/cronjob.yaml does not name an image {image.strip()}")
    if f"ARG VERSION={version}\n" not in (root / "Containerfile").read_text(encoding="utf-8"):
        found.append(f"Containerfile is not of version {version}")
    versions = [tag for tag in tags if re.fullmatch(r"v\d.*", tag)]
    if versions and f"v{version}" not in versions:
        found.append(f"the commit has the tag {versions[0]}, but pyproject.toml has {version}")
    return found


def _tags(root: Path) -> list[str]:
    done = subprocess.run(
        ["/usr/bin/env", "git", "tag", "--points-at", "HEAD"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.split()


if __name__ == "__main__":
    ROOT = Path(__file__).parents[2]
    found = problems(ROOT, _tags(ROOT))
    sys.stderr.writelines(f"release-check: {problem}\n" for problem in found)
    sys.exit(bool(found))
