"""The pages: what they show, to whom, and that they change nothing."""

import io
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import anyio
import httpx
import polars as pl
import pytest
from starlette.types import Message

from batchlic.errors import NoAccess, StoppedEarly, UsageError
from batchlic.journal import outline
from batchlic.runs.folder import RunFolder
from batchlic.runs.listing import ListedRun, RunState, listed_run
from batchlic.web import catalog
from batchlic.web.app import PageOptions, create_app
from batchlic.web.guard import POLICY
from tests.privileges import without_privileges
from tests.runs.kept_runs import begun, finished
from tests.web.builders import (
    DEVICE,
    FORMULA,
    IMAGE,
    REVERSED,
    SCRIPT,
    TOKEN,
    client,
    hostile_run,
    ledger_of,
    runs_folder,
)

PAGES = [
    "/",
    "/?show=attention",
    "/runs/run-1",
    "/device",
    f"/device?id={DEVICE}",
    "/nowhere",
    "/healthz",
    "/metrics",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs_folder(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def browser(folder: Path) -> httpx.Client:
    return client(folder)


@pytest.fixture
def closed(folder: Path) -> httpx.Client:
    return client(folder, token=TOKEN)


def names(page: str) -> list[str]:
    """The runs in the table of the list."""
    return re.findall(r'<th scope="row"><a href="/runs/[^"]+"><bdi>([^<]+)</bdi>', page)


# -- what they show -------------------------------------------------------------------------------------


def test_the_list_shows_all_runs_the_damaged_one_first_and_says_why(browser: httpx.Client) -> None:
    page = browser.get("/").text
    assert names(page) == ["damaged", "night-2", "night-1", "night-0", "interrupted"]
    assert "is damaged (file is not a database)" in page
    assert 'aria-label="The last 3 runs: 1 without failures, 1 with failures' in page


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("show=attention", ["damaged", "night-2", "night-1", "interrupted"]),
        ("show=working", []),
        ("since=9", ["damaged", "night-2"]),
        ("job=assign", ["interrupted"]),
        ("job=none", []),
        ("since=x&show=x&page=99", ["damaged", "night-2", "night-1", "night-0", "interrupted"]),
    ],
)
def test_the_list_can_be_filtered(browser: httpx.Client, query: str, shown: list[str]) -> None:
    assert names(browser.get(f"/?{query}").text) == shown


def test_a_run_that_has_ended_shows_its_report(browser: httpx.Client) -> None:
    page = browser.get("/runs/run-1").text
    assert "Interrupted: 10 devices accepted, 10 devices in doubt, 10 devices failed, 4 rows rejected" in page
    assert "batchlic settle" in page
    assert page.count("<main") == 1
    assert " style=" not in page


def test_a_device_shows_its_events_and_that_there_is_no_ledger(browser: httpx.Client) -> None:
    page = browser.get(f"/device?id={DEVICE}").text
    for shown in (
        "Planned",
        "Request sent",
        "HTTP 429",
        "accepted",
        "there is no ledger here",
        "/runs/run-1",
    ):
        assert shown in page
    assert "Runs that could not be searched" in page


def test_a_device_shows_the_records_of_the_ledger(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    finished(folder / "run")
    ledger_of(folder)
    page = client(folder).get(f"/device?id={DEVICE}").text
    assert re.search(r"assigned</th>\s*<td><bdi>SIMSec-IoT</bdi></td><td><bdi>0000123456-00001</bdi>", page)
    (folder / "ledger.db").write_bytes(b"damaged")
    assert "is not a batchlic ledger" in client(folder).get(f"/device?id={DEVICE}").text


@pytest.mark.parametrize("query", ["since=%C2%B2", "since=99999", "since=x", "page=%C2%B2", "show=%00"])
def test_a_filter_that_no_form_sends_is_no_filter(browser: httpx.Client, query: str) -> None:
    assert len(names(browser.get(f"/?{query}").text)) == 5


def test_a_query_that_is_not_utf8_is_answered(folder: Path) -> None:
    app = create_app(PageOptions(folder=folder, ledger=folder / "ledger.db", token=TOKEN))
    scope = {"type": "http", "method": "GET", "path": "/device", "query_string": b"id=\xff"}
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    anyio.run(app, scope | {"headers": [(b"host", b"127.0.0.1")]}, receive, send)
    assert sent[0]["status"] == 303


def test_separators_in_a_device_do_not_count(browser: httpx.Client) -> None:
    spaced = f"{DEVICE[:2]}-{DEVICE[2:8]} {DEVICE[8:]}"
    assert "Request sent" in browser.get("/device", params={"id": spaced}).text


def test_a_rejected_cell_is_found(browser: httpx.Client) -> None:
    assert "Rejected" in browser.get("/device", params={"id": FORMULA}).text


@pytest.mark.parametrize("path", ["/runs/run-1", "/", f"/device?id={DEVICE}", "/runs/run-1/rejects.csv"])
def test_hostile_texts_are_shown_as_text(browser: httpx.Client, path: str) -> None:
    answer = browser.get(path)
    if "html" in answer.headers["content-type"]:
        assert SCRIPT not in answer.text
        assert "<img" not in answer.text
        assert "\u202e" not in answer.text
    assert answer.status_code == 200


def test_what_was_searched_for_is_shown_as_text(browser: httpx.Client) -> None:
    for hostile in (SCRIPT[:60], IMAGE[:60], REVERSED):
        page = browser.get("/device", params={"id": hostile})
        assert hostile not in page.text


@pytest.mark.parametrize(("what", "rows"), [("rejects", 4), ("failed", 10), ("in_doubt", 10)])
def test_rows_of_a_run_can_be_downloaded(browser: httpx.Client, what: str, rows: int) -> None:
    answer = browser.get(f"/runs/run-1/{what}.csv")
    assert answer.headers["content-disposition"] == f'attachment; filename="run-1-{what}.csv"'
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert pl.read_csv(io.BytesIO(answer.content)).height == rows
    assert browser.get(f"/runs/run-1/{what}.xlsx").content.startswith(b"PK")


def test_without_its_library_no_xlsx_is_offered(
    browser: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "/runs/run-1/rejects.xlsx" in browser.get("/runs/run-1").text
    monkeypatch.setattr("batchlic.writer.export.find_spec", lambda _: None)
    assert "/runs/run-1/rejects.csv" in (page := browser.get("/runs/run-1").text)
    assert ".xlsx" not in page
    answer = browser.get("/runs/run-1/rejects.xlsx")
    assert (answer.status_code, "batchlic[xlsx]" in answer.text) == (501, True)


def test_a_spreadsheet_does_not_run_a_downloaded_cell(browser: httpx.Client) -> None:
    cells = pl.read_csv(io.BytesIO(browser.get("/runs/run-1/rejects.csv").content))["imei"].to_list()
    assert f"'{FORMULA}" in cells
    assert FORMULA not in cells


@pytest.mark.parametrize(
    "path",
    [
        "/runs/none",
        "/runs/%2e%2e%2fsecret",
        "/runs/interrupted",
        "/runs/run-1/all.csv",
        "/runs/run-1/rejects.parquet",
        "/runs/run-1/..%2f..%2frejects.csv",
        "/static/../app.py",
        "/static/%2e%2e%2fapp.py",
        "/static/live.js%00",
    ],
)
def test_other_paths_are_not_found(browser: httpx.Client, path: str) -> None:
    assert browser.get(path).status_code == 404


def test_a_run_that_was_just_deleted_has_no_page(tmp_path: Path) -> None:
    finished(tmp_path / "gone", run_id="gone")
    browser = client(tmp_path)
    assert browser.get("/").status_code == 200
    shutil.rmtree(tmp_path / "gone")
    assert browser.get("/runs/gone").status_code == 404
    assert browser.get("/runs/gone/rejects.csv").status_code == 404


def test_runs_with_the_same_id_have_addresses_of_their_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        finished(tmp_path / name, run_id="copied")
    page = client(tmp_path).get("/").text
    assert len(set(re.findall(r'<th scope="row"><a href="(/runs/folder-[0-9a-f]{16})"', page))) == 2


def test_runs_that_cannot_be_read_are_shown_with_the_reason(tmp_path: Path) -> None:
    for name in ("newer", "closed", "good"):
        finished(tmp_path / name)
    with closing(sqlite3.connect(tmp_path / "newer" / "journal.db")) as journal:
        journal.execute("PRAGMA user_version = 99")
    (tmp_path / "closed").chmod(0)
    with without_privileges():
        browser = client(tmp_path)
        page = browser.get("/").text
        newer, closed = (
            re.findall(rf'<a href="(/runs/[^"]+)"><bdi>{name}<', page)[0] for name in ("newer", "closed")
        )
    (tmp_path / "closed").chmod(0o700)
    assert sorted(names(page)) == ["closed", "good", "newer"]
    assert "other version" in page
    assert "another version of batchlic (schema 99" in browser.get(newer).text
    assert "can&#39;t be opened" in page
    assert browser.get(closed).status_code == 200


def test_only_a_run_that_has_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "FRESH_S", 0.0)
    monkeypatch.setattr(catalog, "_LIST_COST_FACTOR", 0)
    read: list[str] = []

    def listed(found: RunFolder | ListedRun) -> ListedRun:
        run = listed_run(found)
        read.append(Path(run.run_dir).name)
        return run

    monkeypatch.setattr(catalog, "listed_run", listed)
    for name in ("changed", "same"):
        finished(tmp_path / name)
    runs = catalog.Catalog(tmp_path)
    runs.entries()
    (tmp_path / "changed" / "summary.json").write_text("{}")
    runs.entries()
    assert sorted(read) == ["changed", "changed", "same"]


def test_a_run_that_cannot_be_read_for_a_moment_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "FRESH_S", 0.0)
    monkeypatch.setattr(catalog, "_LIST_COST_FACTOR", 0)
    monkeypatch.setattr(catalog, "_COST_FACTOR", 0)
    finished(tmp_path / "run")
    runs = catalog.Catalog(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(outline, "read_outline", _raise_full)
        assert [entry.run.state for entry in runs.entries()] == [RunState.UNREADABLE]
    assert [entry.run.state for entry in runs.entries()] == [RunState.FINISHED]


def _raise_full(path: Path) -> NoReturn:
    raise StoppedEarly(f"{path}: can't be copied (No space left on device)")


def test_a_run_is_shown_as_it_is_though_the_list_is_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "FRESH_S", 3600.0)
    finished(tmp_path / "run")
    runs = catalog.Catalog(tmp_path)
    with RunFolder(tmp_path / "run").locked():
        assert [entry.run.state for entry in runs.entries()] == [RunState.AT_WORK]
    found = runs.find("run")
    assert found is not None
    assert found.run.state is RunState.FINISHED


def test_a_planned_run_says_that_nothing_was_sent(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    (tmp_path / "run" / "journal.db").unlink()
    browser = client(tmp_path)
    [path] = re.findall(r'<th scope="row"><a href="([^"]+)"', browser.get("/").text)
    assert "Planned: nothing was sent yet" in browser.get(path).text


def test_a_folder_without_runs_has_a_page(tmp_path: Path) -> None:
    assert "There is no run in this folder yet" in client(tmp_path).get("/").text


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="there is no such folder"):
        client(tmp_path / "none")
    with pytest.raises((UsageError, NoAccess), match="file"):
        client(tmp_path / "file")


# -- a run at work --------------------------------------------------------------------------------------


@pytest.fixture
def at_work(tmp_path: Path) -> Iterator[RunFolder]:
    folder = hostile_run(tmp_path / "run", devices=50)
    with folder.locked():
        yield folder


def test_a_run_at_work_shows_its_progress(at_work: RunFolder) -> None:
    browser = client(at_work.parent)
    page = browser.get("/runs/run-1").text
    assert '<span data-live="percent">40.0%</span> done' in page
    assert 'data-live-source="/runs/run-1/live"' in page
    assert f"{os.getpid()} on" in page
    listed = browser.get("/").text
    assert "40% done" in listed
    assert 'data-live-source="/live?seen=' in listed


def test_a_list_that_was_loaded_before_a_run_ended_is_told(tmp_path: Path) -> None:
    folder = RunFolder(finished(tmp_path / "run"))
    with folder.locked():
        page = client(tmp_path).get("/").text
    [source] = re.findall(r'data-live-source="([^"]+)"', page)
    assert "event: changed" in client(tmp_path).get(source).text


def test_an_inventory_that_is_still_planned_has_a_page(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.make()
    with folder.locked():
        browser = client(tmp_path)
        [path] = re.findall(r'<th scope="row"><a href="([^"]+)"', browser.get("/").text)
        assert "The inventory is being read and planned" in browser.get(path).text


# -- to whom --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*PAGES, "/static/live.js", "/static/report.css", "/login", "/live"])
def test_every_answer_has_the_headers_that_protect_it(folder: Path, path: str) -> None:
    for browser in (client(folder), client(folder, token=TOKEN)):
        headers = browser.head(path).headers
        assert headers["content-security-policy"] == POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "MERGE"])
@pytest.mark.parametrize("path", ["/", "/runs/run-1", "/nowhere", "/healthz", "/metrics"])
def test_other_methods_are_refused(browser: httpx.Client, method: str, path: str) -> None:
    answer = browser.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "path",
    ["/", "/runs/run-1", "/runs/run-1/rejects.csv", f"/device?id={DEVICE}", "/static/live.js", "/nowhere"],
)
def test_without_a_session_there_is_only_the_login(closed: httpx.Client, path: str) -> None:
    answer = closed.get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login?next=/")


def test_a_stream_without_a_session_is_refused(closed: httpx.Client) -> None:
    assert closed.get("/runs/run-1/live").status_code == 401


def test_health_needs_no_session_and_no_name(closed: httpx.Client) -> None:
    assert closed.get("/healthz", headers={"host": "10.0.0.7"}).text == "ok\n"


def test_the_right_token_opens_the_page_that_was_asked_for(closed: httpx.Client) -> None:
    asked = closed.get(f"/device?id={DEVICE}").headers["location"]
    assert f"/device?id={DEVICE}" in closed.get(asked).text
    answer = closed.post("/login", data={"token": TOKEN, "next": f"/device?id={DEVICE}"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/device?id={DEVICE}")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert TOKEN not in cookie
    assert "Secure" not in cookie
    assert closed.get("/").status_code == 200


@pytest.mark.parametrize("is_tls", [True, False])
def test_the_cookie_is_secure_where_the_page_is(folder: Path, *, is_tls: bool) -> None:
    browser = client(folder, token=TOKEN, is_tls=is_tls)
    origin = {} if is_tls else {"origin": "https://127.0.0.1"}
    cookie = browser.post("/login", data={"token": TOKEN}, headers=origin).headers["set-cookie"]
    assert cookie.startswith("__Host-batchlic-session=")
    assert "; Secure" in cookie


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], f"{TOKEN}x", "é" * 32])
def test_a_wrong_token_is_401(closed: httpx.Client, token: str) -> None:
    answer = closed.post("/login", data={"token": token})
    assert answer.status_code == 401
    assert "The token is wrong." in answer.text
    assert "set-cookie" not in answer.headers
    assert closed.get("/").status_code == 303


def test_after_five_wrong_tokens_even_the_right_one_must_wait(closed: httpx.Client) -> None:
    for _ in range(5):
        assert closed.post("/login", data={"token": "wrong"}).status_code == 401
    answer = closed.post("/login", data={"token": TOKEN})
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 60


def test_a_logout_ends_the_session(folder: Path) -> None:
    browser = client(folder, token=TOKEN, logged_in=True)
    value = browser.cookies["batchlic-session"]
    assert browser.post("/logout").status_code == 303
    assert browser.get("/", headers={"cookie": f"batchlic-session={value}"}).status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://attacker.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1"},
    ],
)
def test_a_form_of_another_site_is_refused(closed: httpx.Client, headers: dict[str, str]) -> None:
    assert closed.post("/login", data={"token": TOKEN}, headers=headers).status_code == 403
    assert closed.post("/logout", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "wanted",
    ["//attacker.example", "https://attacker.example", "/\\attacker.example", "javascript:x", ""],
)
def test_a_login_leads_to_no_other_server(folder: Path, wanted: str) -> None:
    answer = client(folder, token=TOKEN).post("/login", data={"token": TOKEN, "next": wanted})
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize("body", [b"x" * 100_000, b"token=%ff%fe", b"&" * 4000, b"\xff\xfe"])
def test_a_body_that_is_no_form_is_a_wrong_token(closed: httpx.Client, body: bytes) -> None:
    assert closed.post("/login", content=body).status_code == 401


def test_a_request_under_another_name_is_refused(browser: httpx.Client) -> None:
    answer = browser.get("/", headers={"host": "attacker.example"})
    assert answer.status_code == 421
    assert "--public-host" in answer.text


def test_metrics_take_the_token_of_a_scraper(folder: Path) -> None:
    scraper = client(folder, token=TOKEN)
    answer = scraper.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    [code] = [line for line in answer.text.splitlines() if line.startswith("batchlic_last_run_exit_code{")]
    assert code.endswith(" 6.0")
    assert scraper.get("/metrics").status_code == 401
    for _ in range(5):
        assert scraper.get("/metrics", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert scraper.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 429


# -- nothing is changed ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_pages_write_nothing_in_the_folder(tmp_path: Path) -> None:
    folder = runs_folder(tmp_path / "runs")
    ledger_of(folder)
    before = _files(folder)
    browser = client(folder)
    with RunFolder(folder / "night-0").locked():
        before |= {key: value for key, value in _files(folder).items() if key.endswith("night-0/.lock")}
        for path in (*PAGES, "/runs/night-0", "/runs/run-1/rejects.xlsx", "/runs/run-1/failed.csv"):
            browser.get(path)
        assert _files(folder) == before


def _files(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    found = {}
    for path in (folder, *folder.rglob("*")):
        stat = path.stat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (stat.st_ino, stat.st_mtime_ns, stat.st_mode, content)
    return found
