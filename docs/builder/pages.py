"""The pages of the site: which file becomes which page, and where its links lead."""

import posixpath
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]

ELSEWHERE = {
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
    "jobs/schedule/README.md": "how-to/schedule.md",
    "sample_data/README.md": "reference/samples.md",
    "README.md": "index.md",
}
"""Pages outside docs/ that are pages of the site. Links to the README lead to the first page."""

DIAGRAMS = "assets/mermaid.tiny.js"
"""Draws the diagrams. Only pages with a diagram load it."""

Made = Mapping[str, Callable[[str], str]]
"""Makes the text of a marker's kind from its argument."""

_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
_CODE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]*`)", re.DOTALL | re.MULTILINE)
_MARKER = re.compile(r"^<!-- made: (\S+) ?(.*?) -->$", re.MULTILINE)


def stage(folder: Path, made: Made) -> None:
    """Write all pages, and the files that they show or link, to an empty folder.

    Raises FileNotFoundError for a link without a target, and KeyError for an unknown marker.
    """
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    for source in sorted(sources | ELSEWHERE.keys() - {"README.md"}):
        text = _MARKER.sub(lambda found: made[found[1]](found[2]), (ROOT / source).read_text())
        page = page_of(source)
        text, linked = with_links(text, source, page)
        for file in linked:
            _copy(ROOT / file, folder / "files" / file)
        if "```mermaid" in text:
            text += f'\n<script src="{posixpath.relpath(DIAGRAMS, posixpath.dirname(page))}"></script>\n'
        target = folder / page
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    for name in ("images", "assets"):
        shutil.copytree(ROOT / "docs" / name, folder / name)


def page_of(source: str) -> str:
    """The page of the site that a file of the repository becomes."""
    return ELSEWHERE.get(source) or source.removeprefix("docs/")


def title_of(source: str) -> str:
    """The heading of a page."""
    return (ROOT / source).read_text().partition("\n")[0].removeprefix("# ")


def with_links(text: str, source: str, page: str) -> tuple[str, set[str]]:
    """The text with its links as the site has them, and the files that they name, other than pages."""
    files: set[str] = set()

    def moved(found: re.Match[str]) -> str:
        path, hash_sign, anchor = found[1].partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return found[1]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if not (ROOT / target).is_file():
            raise FileNotFoundError(f"{source}: a link to {found[1]} has no target")
        if target.endswith(".md") or target.startswith(("docs/images/", "docs/assets/")):
            place = page_of(target)
        else:
            files.add(target)
            place = f"files/{target}"
        return posixpath.relpath(place, posixpath.dirname(page)) + hash_sign + anchor

    parts = _CODE.split(text)
    return "".join(part if index % 2 else _LINK.sub(moved, part) for index, part in enumerate(parts)), files


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
