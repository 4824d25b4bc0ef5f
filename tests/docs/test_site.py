"""The documentation site: built once, whole, without a network, and usable on a phone and in the dark."""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import typer.main
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser

import batchlic
from batchlic.cli.app import app
from batchlic.cli.help import name_of, remarks_on
from batchlic.errors import ExitCode
from batchlic.settings import PREFIX, Settings
from batchlic.writer.summary import Summary
from docs.builder.__main__ import CONFIG, build
from docs.builder.pages import ELSEWHERE, page_of
from docs.builder.reference import COLUMNS, TABLES, commands
from tests.endtoend.program import REPOSITORY
from tests.web.browser import chromium, executable

pytestmark = pytest.mark.slow

CHROMIUM = executable()
LOADED = re.compile(r"<(?:script|link|img|iframe|source|video|audio|object|embed)\b[^>]*>")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build(folder / "work", folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: install it, or name one with BATCHLIC_TEST_CHROMIUM")
    with chromium(CHROMIUM) as started:
        yield started


def section(site: Path, page: str, heading: str) -> str:
    """The text of a page below a heading, which its id names, and above the next heading."""
    html = (site / page).read_text()
    found = re.search(rf'<h[1-6] id="{heading}">(.*?)(?=<h[1-6] |<footer)', html, re.DOTALL)
    assert found, heading
    return unescape(re.sub(r"<[^>]+>", " ", found[1]))


def test_every_page_is_in_the_navigation_and_is_built(site: Path) -> None:
    in_navigation = re.findall(r"^ +- (?:[\w ]+: )?(\S+\.md)$", CONFIG.read_text(), re.MULTILINE)
    sources = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "docs").rglob("*.md")}
    assert sorted(in_navigation) == sorted({page_of(source) for source in sources | ELSEWHERE.keys()})
    for page in in_navigation:
        assert (site / page).with_suffix(".html").exists(), page
    assert (site / "404.html").exists()


def test_every_page_has_a_title_of_its_own(site: Path) -> None:
    pages = set(site.rglob("*.html")) - {site / "404.html"}
    titles = [re.findall(r"<title>(.*?)</title>", page.read_text())[0] for page in pages]
    assert len(set(titles)) == len(pages)


def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    for page in site.rglob("*.html"):
        for tag in LOADED.findall(page.read_text()):
            assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag), (page.name, tag)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", sheet.read_text()), sheet.name


def test_the_command_line_has_every_option_as_help_pages_show_it(site: Path) -> None:
    for names, command in commands(typer.main.get_command(app)):
        text = " ".join(section(site, "reference/cli.html", f"batchlic-{'-'.join(names)}").split())
        context = command.make_context("x", [], resilient_parsing=True)
        for parameter in command.params:
            shown = [name_of(parameter, context), *remarks_on(parameter, context)]
            assert parameter.hidden or not [part for part in shown if part not in text], (names, shown)


def test_every_link_and_image_of_a_page_leads_to_a_file(site: Path) -> None:
    for page in set(site.rglob("*.html")) - {site / "404.html"}:
        for target in re.findall(r"""<[^>]*\b(?:href|src)=["']?([^"'\s>]+)""", page.read_text()):
            parts = urlsplit(unescape(target))
            if not parts.scheme and not parts.netloc and parts.path:
                assert (page.parent / unquote(parts.path)).exists(), (page.name, target)


@pytest.mark.parametrize("table", TABLES)
def test_the_page_of_job_files_has_every_key(site: Path, table: str) -> None:
    named = section(site, "reference/jobs.html", "top-level" if table == "top" else table).split()
    assert TABLES[table].model_fields.keys() - TABLES.keys() <= set(named)


def test_the_pages_have_every_setting_exit_code_column_and_field(site: Path) -> None:
    settings = section(site, "reference/settings.html", "settings").split()
    assert {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} <= set(settings)
    codes = section(site, "reference/exit-codes.html", "exit-codes")
    assert re.findall(r"^ *(\d) *$", codes, re.MULTILINE) == [str(code.value) for code in ExitCode]
    for file, columns in COLUMNS.items():
        named = section(site, "reference/files.html", file.replace(".", "")).split()
        assert columns.keys() <= set(named), file
    fields = section(site, "reference/files.html", "summaryjson").split()
    assert set(Summary.__struct_fields__) <= set(fields)


def test_the_page_of_the_api_has_everything_public(site: Path) -> None:
    page = (site / "reference/api.html").read_text()
    public = [name for name in getattr(batchlic, "__all__", ()) if not name.startswith("__")]
    assert [name for name in public if f'id="batchlic.{name}"' not in page] == []
    assert '<a href="../how-to/migrate.html">Move devices to another SKU</a>' in page


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_no_barrier_and_nothing_overflows(
    site: Path, browser: Browser, width: int, scheme: str
) -> None:
    hosts, problems = set[str](), list[str]()
    with browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}) as context:  # type: ignore[arg-type]  # one of two texts
        page = context.new_page()
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.on("pageerror", lambda error: problems.append(str(error)))
        for name in ("index", "tutorial/first-night", "reference/settings"):
            page.goto((site / f"{name}.html").as_uri())
            found = Axe().run(page)
            serious = [
                one for one in found.response["violations"] if one["impact"] in {"serious", "critical"}
            ]
            assert serious == [], found.generate_report()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert hosts <= {""}
    assert problems == []


def test_search_and_diagrams_work_from_a_disk(site: Path, browser: Browser) -> None:
    page = browser.new_page()
    page.goto((site / "index.html").as_uri())
    page.wait_for_function("document.querySelector('div.mermaid')?.clientHeight > 50")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("combobox").fill("canary")
    page.get_by_role("option").first.click()
    page.wait_for_url(lambda url: "?h=canary" in url)
    page.close()
