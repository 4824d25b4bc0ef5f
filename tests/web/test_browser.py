"""The pages in a real browser: they move, hostile texts stay texts, and nothing comes from elsewhere."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, ConsoleMessage, Page, StorageState, expect

from batchlic.carrier.answers import Outcome
from batchlic.runs.folder import RunFolder
from tests.endtoend.program import begin, end, until
from tests.runs.kept_runs import begun
from tests.web.browser import chromium, executable
from tests.web.builders import DEVICE, FORMULA, SCRIPT, TOKEN, runs_folder, send

CHROMIUM = executable()
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: install it, or name one with BATCHLIC_TEST_CHROMIUM"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    begun(runs_folder(home / "runs") / "working", days=0, planned=50, batches=5)
    return home / "runs"


@pytest.fixture(scope="module")
def working(folder: Path) -> Iterator[RunFolder]:
    """A run on which this process works."""
    run = RunFolder(folder / "working")
    with run.locked():
        send(run, 1, Outcome.ACCEPTED, at=time.time_ns() // 1000)
        yield run


@pytest.fixture(scope="module")
def url(folder: Path, working: RunFolder) -> Iterator[str]:
    settings = {"BATCHLIC_SERVE_TOKEN": TOKEN}
    process = begin("serve", folder, "--port", "0", settings=settings, cwd=working.parent)
    yield str(json.loads(process.stdout.readline())["url"])
    process.send_signal(15)
    assert end(process).code == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None
    with chromium(CHROMIUM) as started:
        yield started


@dataclass
class Heard:
    """What a page said on its console, and which servers it asked."""

    console: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def attach(self, page: Page) -> None:
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.console.append(str(error)))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))

    def _note(self, message: ConsoleMessage) -> None:
        is_of_page = message.page is not None and message.location["url"] == message.page.url
        if not (is_of_page and message.text.startswith("Failed to load resource")):  # 401 and 404 on purpose
            self.console.append(message.text)


@pytest.fixture
def visitor(browser: Browser, url: str) -> Iterator[Page]:
    """A page of somebody who is not logged in; whatever it does, it has no errors and asks nobody else."""
    heard = Heard()
    with browser.new_context(base_url=url, accept_downloads=True) as context:
        page = context.new_page()
        heard.attach(page)
        yield page
        assert not page.is_closed()
        assert page.evaluate("document.body.dataset.harmed") is None
    assert heard.hosts <= {urlsplit(url).netloc}
    assert heard.console == []


@pytest.fixture(scope="module")
def session(browser: Browser, url: str) -> StorageState:
    """The cookie of a login."""
    with browser.new_context(base_url=url) as context:
        page = context.new_page()
        page.goto("/")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
        return context.storage_state()


@pytest.fixture
def page(visitor: Page, session: StorageState) -> Page:
    """A page of somebody who has logged in."""
    visitor.context.add_cookies(session["cookies"])  # type: ignore[arg-type]  # the same keys
    visitor.goto("/")
    return visitor


def test_a_wrong_token_is_refused_and_the_right_one_leads_to_the_page_asked_for(visitor: Page) -> None:
    visitor.goto(f"/device?id={DEVICE}")
    visitor.get_by_label("Token").fill("wrong")
    visitor.keyboard.press("Enter")
    expect(visitor.get_by_role("alert")).to_have_text("The token is wrong.")
    visitor.get_by_label("Token").fill(TOKEN)
    visitor.keyboard.press("Enter")
    expect(visitor.get_by_role("heading", name=DEVICE)).to_be_visible()
    visitor.get_by_role("button", name="Log out").click()
    expect(visitor.get_by_label("Token")).to_be_visible()


def test_the_list_shows_the_runs_and_filters_them(page: Page) -> None:
    rows = page.get_by_role("table").get_by_role("row")
    expect(rows).to_have_count(1 + 6)
    expect(rows.filter(has_text="working")).to_contain_text("at work 20% done")
    expect(page.get_by_role("img", name="The last 3 runs")).to_be_visible()
    page.get_by_label("Show").select_option(label="needs attention")
    page.get_by_role("button", name="Filter").click()
    expect(rows).to_have_count(1 + 4)


def test_a_run_at_work_moves_without_a_reload(page: Page, working: RunFolder) -> None:
    page.goto("/runs/working")
    page.evaluate("window.isSamePage = true")
    done = page.get_by_role("progressbar")
    expect(done).to_have_attribute("value", "20")
    points = page.locator("[data-live-points=flow-line]").get_attribute("points")
    send(working, 2, Outcome.ACCEPTED, at=time.time_ns() // 1000)
    expect(page.get_by_role("heading", level=1)).to_have_text("40.0% done")
    expect(page.get_by_role("row", name="accepted")).to_contain_text("20")
    expect(page).to_have_title("40.0% · nightly at work · batchlic")
    expect(page.locator("[data-live-points=flow-line]")).not_to_have_attribute("points", points or "")
    assert page.evaluate("window.isSamePage && document.querySelector('progress').value") == 40


def test_a_run_that_ends_shows_its_report_by_itself(page: Page, folder: Path) -> None:
    run = RunFolder(begun(folder / "ending", days=0, planned=10, batches=1))
    with run.locked():
        until(lambda: _is_shown_at_work(page, "/runs/ending"))
    expect(page.get_by_role("progressbar")).to_have_count(0)
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_the_list_says_that_it_has_changed(page: Page, folder: Path) -> None:
    changed = page.get_by_text("The list has changed")
    expect(changed).to_be_hidden()
    begun(folder / "new", days=0)
    expect(changed).to_be_visible()
    changed.get_by_role("link").click()
    expect(page.get_by_role("row").filter(has_text="new")).to_be_visible()


def _is_shown_at_work(page: Page, path: str) -> bool:
    """Whether the page of a new run is there: the server looks for runs once a second."""
    page.goto(path)
    return page.get_by_role("progressbar").count() == 1


def test_a_device_is_searched_with_the_keyboard(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.get_by_role("searchbox").focus()
    page.keyboard.type(f"{DEVICE[:6]} {DEVICE[6:]}")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=DEVICE)).to_be_visible()
    expect(page.get_by_role("listitem").filter(has_text="Answered")).to_have_count(2)


def test_rejects_are_downloaded_as_csv(page: Page) -> None:
    page.goto("/runs/run-1")
    with page.expect_download() as started:
        page.get_by_role("link", name="CSV of rejected").click()
    assert started.value.suggested_filename == "run-1-rejects.csv"
    assert f"'{FORMULA[:9]}" in started.value.path().read_text()


@pytest.mark.parametrize("path", ["/", "/runs/run-1", f"/device?id={DEVICE}", "/device?id=%3Cscript%3E"])
def test_hostile_texts_are_seen_as_text(page: Page, path: str) -> None:
    page.goto(path)
    assert "<script>" in page.locator("body").inner_text() or path.startswith("/device?id=8")
    assert page.evaluate("document.querySelectorAll('main img, main script, [onerror]').length") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["/", "/runs/working", "/runs/run-1", f"/device?id={DEVICE}", "/device", "/nowhere", "/login"]
)
def test_axe_finds_no_barrier_on_a_phone_light_and_dark(page: Page, path: str) -> None:
    if path == "/login":
        page.goto("/device")
        page.context.clear_cookies()
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(path)
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found = Axe().run(page)
        serious = [one for one in found.response["violations"] if one["impact"] in {"serious", "critical"}]
        assert serious == [], found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_pages_work_without_javascript(browser: Browser, url: str) -> None:
    with browser.new_context(base_url=url, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto("/runs/working")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("progressbar")).to_be_visible()
        expect(page.get_by_text("Without JavaScript, these figures are not updated")).to_be_visible()
        page.goto(f"/?job=nightly {SCRIPT}")
        expect(page.get_by_role("table").get_by_role("row")).to_have_count(1 + 3)
