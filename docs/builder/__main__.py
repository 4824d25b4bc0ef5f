"""Builds the documentation site into site/: `python -m docs.builder` (`make docs`).

Every warning, such as a link or an anchor without a target, ends the build.
"""

import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

from docs.builder.pages import ROOT, stage
from docs.builder.reference import MADE

CONFIG = ROOT / "mkdocs.yml"

_SHIM = re.compile(r"https://[^\s\"']+/iframe-worker/shim")
"""What Zensical loads to search pages that are opened from a disk. The site has its own copy."""


def build(work: Path, site: Path) -> None:
    """Build the site from nothing. Both folders are replaced; `work` keeps the staged pages.

    Raises CalledProcessError if the build has warnings.
    """
    for folder in (work, site):
        shutil.rmtree(folder, ignore_errors=True)
    stage(work / "pages", MADE)
    config = work / "mkdocs.yml"
    written = CONFIG.read_text()
    for line, value in (("docs_dir: ", "pages"), ("          paths: ", [str(ROOT)])):
        before, _, rest = written.partition(f"\n{line}")
        written = f"{before}\n{line}{value}\n{rest.partition(chr(10))[2]}"
    config.write_text(written)
    zensical = Path(sys.executable).with_name("zensical")
    subprocess.run([zensical, "build", "--strict", "--config-file", config], check=True)
    built = work / "site"
    for page in built.rglob("*.html"):
        here = page.relative_to(built).parent.as_posix()
        shim = posixpath.relpath("assets/iframe-worker.js", here)
        page.write_text(_SHIM.sub(shim, page.read_text()))
    shutil.move(built, site)


if __name__ == "__main__":
    try:
        build(ROOT / "build" / "docs", ROOT / "site")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
