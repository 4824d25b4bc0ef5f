"""Builds the documentation site: `python -m docs.builder [SITE]` (`make docs`).

Every warning, such as a link or an anchor without a target, ends the build.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from docs.builder.pages import ROOT, stage
from docs.builder.reference import MADE

CONFIG = ROOT / "mkdocs.yml"


def build(site: Path) -> None:
    """Build the site in a folder, which is replaced. Raises CalledProcessError if the build has warnings."""
    pages = ROOT / "build" / "docs"
    shutil.rmtree(pages, ignore_errors=True)
    stage(pages, MADE)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site")
