"""`batchlic sync`: the carrier's books equal the inventory, and guards protect a fleet's licenses."""

import gzip
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from batchlic.sandbox.config import LatencyConfig, SandboxConfig
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    LIFETIME,
    Ended,
    attempts,
    batchlic,
    begin,
    books,
    contents,
    end,
    imei,
    keys,
    summary,
    totals,
    until,
)
from tests.forking import serving

TARGET = ("--account", ACCOUNT, "--sku", FLEXIBLE)
KILLS = int(os.environ.get("KILLS", "4"))


@dataclass(frozen=True)
class Home:
    folder: Path
    url: str

    def run(self, *arguments: str) -> Ended:
        return batchlic(*arguments, settings=keys(self.url), cwd=self.folder)

    def sync(self, *options: str) -> Ended:
        return self.run("sync", "fleet.csv", *TARGET, "--yes", "--run-dir", "runs/sync", *options)

    def fleet(self, *numbers: range, more: str = "") -> None:
        devices = [imei(number) for part in numbers for number in part]
        (self.folder / "fleet.csv").write_text("\n".join(["IMEI", *devices, more]))

    def licensed(self) -> set[str]:
        return {device for device, record in books(self.url).items() if record["licenses"]}

    def requests(self) -> int:
        return sum(dict[str, int](totals(self.url)["requests"]).values())


def devices(*numbers: range) -> set[str]:
    return {imei(number) for part in numbers for number in part}


@contextmanager
def licensed_fleet(folder: Path, count: int, *, licenses: int = 1000, latency: float = 0.0) -> Iterator[Home]:
    """A fleet whose first devices are licensed, and an account with so many licenses."""
    counts = {FLEXIBLE: licenses, LIFETIME: licenses}
    with serving(SandboxConfig(licenses=counts, latency=LatencyConfig(base_s=latency))) as url:
        home = Home(folder, url)
        home.fleet(range(count))
        assert home.run("assign", "fleet.csv", *TARGET, "--yes").code == 0
        yield home


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A fleet of 100 licensed devices that no test changes."""
    with licensed_fleet(tmp_path_factory.mktemp("guarded"), 100) as home:
        yield home
        assert home.licensed() == devices(range(100))


# -- the books ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_after_a_sync_the_books_equal_the_inventory(tmp_path: Path) -> None:
    with licensed_fleet(tmp_path, 200) as home:
        home.fleet(range(2, 230))
        ended = home.sync()
        assert (ended.code, home.licensed()) == (0, devices(range(2, 230)))
        assert summary(tmp_path / "runs/sync")["statuses"] == {"accepted": 32, "skipped": 198}
        assert home.run("audit", "runs/sync", "--verify").code == 0
        [count] = json.loads(home.run("ledger", "show", "--json").out)
        assert (count["assigned"], count["unassigned"]) == (228, 2)
        requests = home.requests()
        assert home.run("sync", "fleet.csv", *TARGET, "--yes").code == 0
        assert home.requests() == requests
        refused = home.run("rollback", "runs/sync", "--yes")
        assert (refused.code, "a sync can't be rolled back" in refused.err) == (2, True)


@pytest.mark.slow
def test_a_sync_is_not_retried(guarded: Home) -> None:
    guarded.fleet(range(100))
    assert guarded.sync("--run-dir", "runs/nothing").code == 0
    refused = guarded.run("retry", "runs/nothing", "--yes")
    assert (refused.code, "a sync is not retried" in refused.err) == (2, True), refused.err


def planned(home: Home, *options: str) -> Path:
    """The folder with the plan of a sync of 40 devices that are gone and 40 that are new."""
    home.fleet(range(40, 140))
    (home.folder / "job.toml").write_text(
        'action = "sync"\n[inventory]\nfiles = ["fleet.csv"]\n[limits]\nbatch_size = 5\n'
        f'[sync]\nmax_removals = "40%"\n[license]\naccount = "{ACCOUNT}"\nsku = "{FLEXIBLE}"\n'
    )
    ended = home.run("plan", "job.toml", "--run-dir", "runs/next", *options)
    assert ended.code == 0, ended.err
    return home.folder / "runs/next"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("licenses", "options", "first"), [(105, ("--licenses",), "unassign"), (1000, (), "assign")]
)
def test_a_reviewed_sync_is_sent_in_both_phases_byte_for_byte_and_once(
    tmp_path: Path, licenses: int, options: tuple[str, ...], first: str
) -> None:
    with licensed_fleet(tmp_path, 100, licenses=licenses) as home:
        folder = planned(home, *options)
        before = contents(folder)
        ended = home.run("apply", "runs/next", "--yes")
        assert (ended.code, home.licensed()) == (0, devices(range(40, 140))), ended.err
        assert {name: contents(folder)[name] for name in before} == before
        requests = home.requests()
        assert home.run("apply", "runs/next", "--yes").code == 0
        assert home.requests() == requests
        assert home.run("audit", "runs/next", "--verify").code == 0
    second = "assign" if first == "unassign" else "unassign"
    assert [attempt.action for attempt in attempts(folder)] == [first] * 8 + [second] * 8


@pytest.mark.slow
def test_a_reviewed_sync_that_assigns_first_is_refused_where_licenses_are_short(tmp_path: Path) -> None:
    with licensed_fleet(tmp_path, 100, licenses=105) as home:
        planned(home)
        requests = home.requests()
        refused = home.run("apply", "runs/next", "--yes")
        assert (refused.code, home.requests()) == (4, requests)
        assert (
            f"has 5 licenses of {FLEXIBLE} left, and the plan needs 40, before it takes 40 back"
            in refused.err
        )
        assert "batchlic plan --licenses" in refused.err


@pytest.mark.slow
def test_a_reviewed_sync_is_out_of_date_if_a_gone_device_lost_its_license(tmp_path: Path) -> None:
    with licensed_fleet(tmp_path, 100) as home:
        planned(home)
        (tmp_path / "one.csv").write_text(f"IMEI\n{imei(3)}\n")
        assert home.run("unassign", "one.csv", *TARGET, "--yes").code == 0
        requests = home.requests()
        refused = home.run("apply", "runs/next", "--yes")
        assert (refused.code, home.requests()) == (4, requests)
        assert "has recorded 1 of its devices since it was planned" in refused.err


@pytest.mark.slow
def test_results_and_history_say_what_was_done_with_each_device(tmp_path: Path) -> None:
    with licensed_fleet(tmp_path, 100) as home:
        home.fleet(range(1, 101))
        assert home.sync().code == 0
        results = pl.read_parquet(tmp_path / "runs/sync/results.parquet")
        rows = results.filter(pl.col("imei").is_in([imei(0), imei(1), imei(100)])).sort("imei")
        assert rows.select("action", "status", "source", "row").rows() == [
            ("unassign", "accepted", "ledger", 1),
            ("assign", "skipped", "fleet.csv", 1),
            ("assign", "accepted", "fleet.csv", 100),
        ]
        events = json.loads(home.run("audit", "runs", "--device", imei(0), "--json").out)
        assert [(event["event"], event["action"]) for event in events if event["run_dir"] == "runs/sync"] == [
            ("planned", "unassign"),
            ("sent", "unassign"),
            ("taken_back", "unassign"),
        ]


@pytest.mark.slow
def test_licenses_are_taken_back_first_where_too_few_are_left(tmp_path: Path) -> None:
    with licensed_fleet(tmp_path, 100, licenses=105) as home:
        home.fleet(range(40, 140))
        ended = home.sync("--max-removals", "40%", "--batch-size", "5")
        assert (ended.code, home.licensed()) == (0, devices(range(40, 140)))
        actions = [attempt.action for attempt in attempts(tmp_path / "runs/sync")]
        assert actions == ["unassign"] * 8 + ["assign"] * 8


@pytest.mark.slow
def test_too_few_licenses_after_all_removals_are_exit_4(tmp_path: Path) -> None:
    with licensed_fleet(tmp_path, 100, licenses=105) as home:
        home.fleet(range(10, 120))
        refused = home.sync("--max-removals", "10")
        assert (refused.code, home.licensed()) == (4, devices(range(100)))
        assert f"15 licenses of {FLEXIBLE} left (with 10 of gone devices) for 20 devices" in refused.err
        assert home.sync("--max-removals", "10", "--allow-partial").code == 3
        assert home.licensed() == devices(range(10, 115))


@pytest.mark.slow
@pytest.mark.parametrize("licenses", [140, 1000])  # a request that is sent again may take another one
def test_a_sync_killed_many_times_ends_with_the_books_of_the_inventory(tmp_path: Path, licenses: int) -> None:
    dice = random.Random(licenses)
    with licensed_fleet(tmp_path, 100, licenses=licenses, latency=0.02) as home:
        home.fleet(range(60, 160))
        command = ("sync", "fleet.csv", *TARGET, "--yes", "--run-dir", "runs/sync", "--json")
        options = ("--max-removals", "60", "--batch-size", "3", "--max-concurrency", "2")
        process = begin(*command, *options, settings=keys(home.url), cwd=tmp_path)
        for _ in range(KILLS):
            sent = home.requests()
            until(lambda process=process, sent=sent: home.requests() > sent or process.poll() is not None)  # type: ignore[misc]
            time.sleep(dice.uniform(0, 0.15))
            process.send_signal(signal.SIGKILL)
            end(process)
            process = begin(*command, *options, settings=keys(home.url), cwd=tmp_path)
        ended = end(process)
        assert (ended.code, home.licensed()) == (0, devices(range(60, 160))), ended.err
        last_of = dict[str, int]()
        first_of = dict[str, int]()
        for number, attempt in enumerate(attempts(tmp_path / "runs/sync")):
            last_of[attempt.action] = number
            first_of.setdefault(attempt.action, number)
        first, second = ("unassign", "assign") if licenses == 140 else ("assign", "unassign")
        assert last_of[first] < first_of[second]


# -- guards ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kept", "options", "gone"),
    [
        (range(50), (), 50),
        (range(98), (), 2),
        (range(90), ("--max-removals", "9.9%"), 10),
        (range(90), ("--max-removals", "9"), 10),
        (range(99), ("--max-removals", "0"), 1),
        (range(0), ("--allow-empty",), 100),
    ],
)
def test_too_many_removals_are_exit_4_with_the_numbers_and_the_way_out(
    guarded: Home, kept: range, options: tuple[str, ...], gone: int
) -> None:
    guarded.fleet(kept)
    requests = guarded.requests()
    refused = guarded.sync(*options)
    assert refused.code == 4, refused.err
    assert f"{gone} of 100 licensed devices on account {ACCOUNT}, SKU {FLEXIBLE}" in refused.err
    assert f"--max-removals {gone};" in refused.err
    assert guarded.requests() == requests
    allowed = guarded.sync(*options, "--max-removals", f"{gone}", "--dry-run")
    assert (allowed.code, f"unassign {gone} device" in allowed.out) == (0, True)


@pytest.mark.slow
def test_a_dry_run_prints_the_difference_and_sends_nothing(guarded: Home) -> None:
    guarded.fleet(range(1, 104))
    requests = guarded.requests()
    ended = guarded.sync("--dry-run")
    assert ended.code == 0
    assert f"assign 4 devices in 1 request: account {ACCOUNT}, SKU {FLEXIBLE}" in ended.out
    assert f"unassign 1 device in 1 request: account {ACCOUNT}, SKU {FLEXIBLE}" in ended.out
    groups = json.loads(guarded.sync("--dry-run", "--json").out)["groups"]
    assert [(group["action"], group["devices"]) for group in groups] == [("assign", 4), ("unassign", 1)]
    assert guarded.requests() == requests
    assert not (guarded.folder / "runs/sync").exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--max-removals", "101%"), 2, "more than all devices"),
        (("--max-removals", "0.5"), 2, "no whole number of devices"),
        (("--max-removals", "-1"), 2, "--max-removals"),
        (("--max-removals", "many"), 2, "neither a number of devices"),
        (("--no-remove", "--no-assign"), 2, "nothing is left to do"),
    ],
)
def test_bad_options_are_exit_2(guarded: Home, options: tuple[str, ...], code: int, message: str) -> None:
    guarded.fleet(range(100))
    refused = guarded.sync(*options)
    assert (refused.code, message in refused.err) == (code, True), refused.err


@pytest.mark.slow
def test_a_source_that_can_not_be_read_to_its_end_is_exit_2(guarded: Home) -> None:
    guarded.fleet(range(100))
    whole = gzip.compress((guarded.folder / "fleet.csv").read_bytes())
    (guarded.folder / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    for broken in ("cut.csv.gz", "missing.csv"):
        assert guarded.run("sync", "fleet.csv", broken, *TARGET, "--yes", "--max-removals", "100%").code == 2


@pytest.mark.slow
def test_a_lifetime_license_is_assigned_with_consent_only_and_never_removed(tmp_path: Path) -> None:
    with licensed_fleet(tmp_path, 10) as home:
        target = ("--account", ACCOUNT, "--sku", LIFETIME)
        home.fleet(range(20, 30))
        assert home.run("sync", "fleet.csv", *target, "--yes").code == 4
        assert home.run("sync", "fleet.csv", *target, "--yes", "--consent-lifetime").code == 0
        home.fleet(range(25, 30))
        ended = home.run("sync", "fleet.csv", *target, "--yes", "--run-dir", "runs/kept")
        assert ended.code == 0
        assert "5 gone devices not removed: a Lifetime license can't be taken back" in ended.out
        assert home.licensed() == devices(range(10), range(20, 30))


@pytest.mark.slow
def test_a_sync_may_only_assign_or_only_remove(tmp_path: Path) -> None:
    with licensed_fleet(tmp_path, 10) as home:
        home.fleet(range(5, 12))
        assert home.sync("--no-remove").code == 0
        assert home.licensed() == devices(range(12))
        home.fleet(range(5, 20))
        only_remove = home.run("sync", "fleet.csv", *TARGET, "--no-assign", "--max-removals", "5", "--yes")
        assert (only_remove.code, home.licensed()) == (0, devices(range(5, 12)))


@pytest.mark.slow
def test_a_rejected_row_keeps_the_license_of_its_device(tmp_path: Path) -> None:
    with licensed_fleet(tmp_path, 10) as home:
        home.fleet(range(2, 10), more=f"{imei(0)[:-1]}X\n")
        assert home.sync("--max-removals", "1").code == 3
        assert home.licensed() == devices(range(1), range(2, 10))


@pytest.mark.slow
def test_a_job_file_syncs_and_an_option_overrides_its_guard(tmp_path: Path) -> None:
    with licensed_fleet(tmp_path, 10) as home:
        home.fleet(range(3, 10))
        (tmp_path / "nightly.toml").write_text(
            'action = "sync"\n[inventory]\nfiles = ["fleet.csv"]\nmax_change = "50%"\n'
            f'[license]\naccount = "{ACCOUNT}"\nsku = "{FLEXIBLE}"\n[sync]\nmax_removals = 2\n'
        )
        assert home.run("run", "nightly.toml", "--yes").code == 4
        assert home.run("plan", "nightly.toml").code == 4
        assert home.run("run", "nightly.toml", "--yes", "--max-removals", "3").code == 0
        assert home.licensed() == devices(range(3, 10))
        assert home.run("run", "nightly.toml", "--yes").code == 0  # compared with the rows of the last run


@pytest.mark.slow
def test_a_rehearsal_on_a_sandbox_assigns_all_and_removes_nothing(guarded: Home) -> None:
    guarded.fleet(range(5))
    ended = guarded.sync("--sandbox", "--run-dir", "rehearsal")
    assert (ended.code, "there is no ledger" in ended.out) == (0, True)
    assert summary(guarded.folder / "rehearsal")["statuses"] == {"accepted": 5}


@pytest.mark.slow
def test_a_check_counts_the_licenses_that_a_sync_takes_back(tmp_path: Path) -> None:
    with licensed_fleet(tmp_path, 20, licenses=20) as home:
        home.fleet(range(2, 22))
        (tmp_path / "nightly.toml").write_text(
            'action = "sync"\n[inventory]\nfiles = ["fleet.csv"]\n[sync]\nmax_removals = 2\n'
            f'[license]\naccount = "{ACCOUNT}"\nsku = "{FLEXIBLE}"\n'
        )
        ended = home.run("check", "nightly.toml")
        assert ended.code == 0, ended.out
        assert "0 licenses of SIMSec-IoT left, and 2 of gone devices, for 2 devices" in ended.out
        home.fleet(range(2, 23))
        assert home.run("check", "nightly.toml").code == 3
