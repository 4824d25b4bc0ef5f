"""Builds the documentation site: `python -m docs.builder [SITE]` (`make docs`).

Every warning, such as a link or an anchor without a target, ends the build.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from docs.builder.pages import ROOT, stage
from docs.builder.reference import MADE


def build(site: Path = ROOT / "site") -> None:
    """Build the site into `site/`, from nothing. Raises CalledProcessError if the build has warnings."""
    pages = ROOT / "build" / "docs"
    for folder in (pages, site, ROOT / ".cache"):
        shutil.rmtree(folder, ignore_errors=True)
    stage(pages, MADE)
    subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--strict", "--config-file", ROOT / "mkdocs.yml"],
        check=True,
    )


if __name__ == "__main__":
    try:
        build()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
