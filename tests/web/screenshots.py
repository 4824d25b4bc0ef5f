"""`make screenshots`: the pictures of the report and the pages in the documents, of runs against the sandbox.

The runs of the last 30 nights are small ones. Their journals then get the times of those nights.
"""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from playwright.sync_api import Browser

from tests.endtoend.program import imei
from tests.web.browser import chromium, executable

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
NIGHTS = 30
LAST_NIGHT = int(time.time()) // 86_400 * 86_400 + 2 * 3600
"""Today at 2 a.m., in seconds since 1970."""
DESKTOP, PHONE = (1200, 860), (390, 844)
LARGEST = 200_000
"""Bytes of a picture, at most."""

JOB = """
name = "{name}"
action = "assign"
[inventory]
files = ["{inventory}"]
[license]
account = "0000123456-00001"
sku = "SIMSec-IoT"
[limits]
max_rejects = {tolerated}
[sandbox]
rate = {rate}
burst = {burst}
latency = {latency}
"""


def main() -> None:
    path = executable()
    if path is None:
        sys.exit("make screenshots needs Chromium: install it, or name one with BATCHLIC_TEST_CHROMIUM")
    IMAGES.mkdir(exist_ok=True)
    # A short path of its own, because the pages show it.
    with TemporaryDirectory(prefix="batchlic-") as scratch:
        home = Path(scratch)
        runs = home / "runs"
        make_nights(home, runs)
        demo = home / "demo.toml"
        shutil.copy(ROOT / "sample_data" / "fleet.csv.gz", home)
        write_job(demo, "demo", home / "fleet.csv.gz", tolerated=60, rate=25, burst=20)
        finished = runs / f"demo-{_day(NIGHTS - 2)}"
        _batchlic(home, "run", demo, "--sandbox", "--run-dir", finished)
        _move(finished, _began(NIGHTS - 2) - 3600)
        with chromium(path) as browser:
            take_pages(browser, home, demo, runs)
            report = (finished / "report.html").as_uri()
            _take(browser, report, "report", DESKTOP)
            _take(browser, f"{report}#speed", "report-speed", DESKTOP)
    for picture in sorted(IMAGES.glob("*.png")):
        size = picture.stat().st_size
        print(f"{picture.relative_to(ROOT)}  {size / 1000:.0f} kB")
        if size > LARGEST:
            sys.exit(f"{picture}: larger than {LARGEST / 1000:.0f} kB")


def make_nights(home: Path, runs: Path) -> None:
    """Two jobs of every night: most end well, some with rejected rows, and one was stopped."""
    rng = random.Random(6)
    for night in range(NIGHTS):
        for name, growth in (("meters", 6), ("trackers", 2)):
            folder = runs / f"{name}-{_day(night)}"
            job = home / f"{name}.toml"
            inventory = home / f"{name}.csv"
            devices = 150 + growth * night + rng.randrange(10)
            broken = 4 if (night, name) in {(8, "meters"), (21, "meters"), (27, "trackers")} else 0
            cells = [imei(number) for number in range(devices)] + ["8.64508E+14"] * broken
            inventory.write_text("\n".join(["imei", *cells, ""]))
            write_job(job, name, inventory, tolerated=0, rate=1000, burst=100, latency=0.001)
            _batchlic(home, "run", job, "--sandbox", "--run-dir", folder)
            _move(folder, _began(night) + 60 * (name == "trackers"))
            if (night, name) == (15, "meters"):
                _stop(folder)


def write_job(
    path: Path, name: str, inventory: Path, *, tolerated: int, rate: int, burst: int, latency: float = 0.05
) -> None:
    path.write_text(
        JOB.format(
            name=name, inventory=inventory, tolerated=tolerated, rate=rate, burst=burst, latency=latency
        )
    )


def take_pages(browser: Browser, home: Path, demo: Path, runs: Path) -> None:
    """The list, a run at work and a device: on a desktop and on a phone, light and dark."""
    environment = _environment(home)
    command = [sys.executable, "-m", "batchlic"]
    server = subprocess.Popen(
        [*command, "serve", "--port", "0"], env=environment, cwd=home, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    url = json.loads(server.stdout.readline())["url"]
    slow = home / "slow.toml"
    slow.write_text(demo.read_text().replace("rate = 25", "rate = 8"))
    at_work = subprocess.Popen(
        [*command, "run", str(slow), "--sandbox", "--run-dir", str(runs / f"demo-{_day(NIGHTS - 1)}")],
        env=environment,
        cwd=home,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(20)  # until there is a curve to see
        _take(browser, f"{url}", "pages", DESKTOP)
        _take(browser, f"{url}", "pages-phone", PHONE, scheme="dark")
        with browser.new_page() as page:
            page.goto(url)
            working = str(page.locator("tr", has_text="at work").locator("th a").get_attribute("href"))
        _take(browser, f"{url}{working[1:]}", "run-at-work", DESKTOP)
        _take(browser, f"{url}{working[1:]}", "run-at-work-phone", PHONE, scheme="dark")
        _take(browser, f"{url}device?id={imei(7)}", "device", DESKTOP)
    finally:
        for process in (at_work, server):
            process.terminate()
            process.wait()


def _take(
    browser: Browser,
    url: str,
    name: str,
    size: tuple[int, int],
    *,
    scheme: Literal["light", "dark"] = "light",
) -> None:
    viewport = {"width": size[0], "height": size[1]}
    with browser.new_page(viewport=viewport, color_scheme=scheme, reduced_motion="reduce") as page:  # type: ignore[arg-type]
        page.goto(url)
        page.wait_for_timeout(1500)  # the first figures of a stream
        page.screenshot(path=IMAGES / f"{name}.png")


def _began(night: int) -> int:
    return LAST_NIGHT - (NIGHTS - 1 - night) * 86_400


def _day(night: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(_began(night)))


def _move(folder: Path, began: int) -> None:
    """Let a run have begun at another time, in seconds since 1970."""
    with closing(sqlite3.connect(folder / "journal.db")) as connection, connection:
        [(created_at,)] = connection.execute("SELECT created_at FROM run")
        by = (began * 1_000_000 - created_at,)
        connection.execute("UPDATE run SET created_at = created_at + ?", by)
        connection.execute("UPDATE intents SET started_at = started_at + ?", by)
        connection.execute("UPDATE session_ends SET started_at = started_at + ?", by)
        connection.execute("UPDATE session_ends SET ended_at = ended_at + ?", by)


def _stop(folder: Path) -> None:
    """Let a run have been stopped."""
    with closing(sqlite3.connect(folder / "journal.db")) as connection, connection:
        connection.execute("UPDATE session_ends SET exit_code = 6")


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "BATCHLIC_STATE_DIR": str(home / "runs")}


def _batchlic(home: Path, *arguments: object) -> None:
    subprocess.run(
        [sys.executable, "-m", "batchlic", *map(str, arguments)],
        env=_environment(home),
        cwd=home,
        check=False,
        capture_output=True,
    )


if __name__ == "__main__":
    main()
