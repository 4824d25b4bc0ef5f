"""A ledger that does not know the licenses that the carrier counts is told before anything is sent."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from batchlic.sandbox.config import SandboxConfig
from tests.carrier.script import LICENSES, OAUTH, Exchange, take
from tests.endtoend.carrier import COUNTS, answering, say_counts
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    PATIENCE,
    Ended,
    batchlic,
    environment_of,
    fleet,
    imei,
    keys,
    statuses,
    summary,
    totals,
)
from tests.forking import serving

LICENSE = ("--account", ACCOUNT, "--sku", FLEXIBLE)
OTHER_ACCOUNT, OTHER_SKU = "0000123456-00002", "TS-BUNDLE-KTO-SIMSEC-MRC"
DEVICES = 120


@dataclass(frozen=True)
class Home:
    folder: Path
    url: str

    def run(self, *arguments: str) -> Ended:
        return batchlic(*arguments, settings=keys(self.url), cwd=self.folder)

    def assign(self, *options: str, run: str, ledger: str = "new.db") -> Ended:
        place = ("--run-dir", run, "--ledger", ledger)
        return self.run("assign", "fleet.csv", *LICENSE, *options, *place)

    def executions(self) -> int:
        return int(totals(self.url)["executions"])


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A folder of an operator whose account has 120 licenses assigned, by the ledger `first.db`."""
    fleet(tmp_path / "fleet.csv", DEVICES)
    with serving(SandboxConfig()) as url:
        here = Home(tmp_path, url)
        assert here.assign(run="first", ledger="first.db").code == 0
        yield here


@pytest.mark.slow
def test_a_new_ledger_is_exit_4_with_the_count_and_advice(home: Home) -> None:
    counted = f"{DEVICES} licenses of {FLEXIBLE} assigned"
    for options in ((), ("--yes",), ("--allow-partial",)):
        refused = home.assign(*options, run="again")
        assert refused.code == 4, refused.err
        for text in (counted, ACCOUNT, "new.db", "ledger import", "--new-ledger"):
            assert text in refused.err
        assert home.executions() == 2
        assert not (home.folder / "new.db").exists()


@pytest.mark.slow
def test_an_empty_ledger_is_refused_like_a_missing_one(home: Home) -> None:
    (home.folder / "none.csv").write_text("IMEI\n12\n")
    home.run("ledger", "import", "none.csv", *LICENSE, "--ledger", "new.db")
    assert (home.folder / "new.db").exists()
    assert home.assign(run="again").code == 4


@pytest.mark.slow
@pytest.mark.parametrize("way", ["option", "job file"])
def test_the_operator_can_say_yes_to_a_new_ledger(home: Home, way: str) -> None:
    fleet(home.folder / "fleet.csv", DEVICES + 1)
    if way == "option":
        assert home.assign("--new-ledger", run="again").code == 0
        return
    (home.folder / "job.toml").write_text(
        'action = "assign"\n[inventory]\nfiles = ["fleet.csv"]\n'
        f'[license]\naccount = "{ACCOUNT}"\nsku = "{FLEXIBLE}"\n[ledger]\npath = "new.db"\nallow_new = true\n'
    )
    assert home.run("run", "job.toml", "--run-dir", "again").code == 0


@pytest.mark.slow
def test_an_imported_list_makes_the_ledger_known(home: Home) -> None:
    assert home.run("ledger", "import", "fleet.csv", *LICENSE, "--ledger", "new.db").code == 0
    again = home.assign(run="again")
    assert (again.code, "skipped" in again.out) == (0, True)
    assert home.executions() == 2


@pytest.mark.slow
def test_licenses_of_other_accounts_and_skus_do_not_count(home: Home) -> None:
    for number, (account, sku) in enumerate([(OTHER_ACCOUNT, FLEXIBLE), (ACCOUNT, OTHER_SKU)]):
        options = ("--account", account, "--sku", sku, "--ledger", "first.db", "--run-dir", f"other-{number}")
        assert home.run("assign", "fleet.csv", *options).code == 0


@pytest.mark.slow
@pytest.mark.parametrize(("account", "sku"), [(OTHER_ACCOUNT, FLEXIBLE), (ACCOUNT, OTHER_SKU)])
def test_a_ledger_that_knows_others_only_is_refused(home: Home, account: str, sku: str) -> None:
    scope = ("assign", "fleet.csv", "--account", account, "--sku", sku)
    assert home.run(*scope, "--ledger", "elsewhere.db", "--run-dir", "other").code == 0
    refused = home.run(*scope, "--ledger", "first.db", "--run-dir", "again")
    assert (refused.code, f"{sku} assigned on account {account}" in refused.err) == (4, True), refused.err


@pytest.mark.slow
def test_an_unassign_run_takes_a_new_ledger(home: Home) -> None:
    taken = home.run("unassign", "fleet.csv", *LICENSE, "--ledger", "new.db", "--run-dir", "back")
    assert taken.code == 0, taken.err


@pytest.mark.slow
def test_a_run_without_a_ledger_is_not_asked(home: Home) -> None:
    assert home.run("assign", "fleet.csv", *LICENSE, "--no-ledger", "--run-dir", "again").code == 0


@pytest.mark.slow
def test_a_dry_run_with_a_new_ledger_is_no_error(home: Home) -> None:
    assert home.assign("--dry-run", run="again").code == 0
    assert not (home.folder / "new.db").exists()


@pytest.mark.slow
def test_a_migration_is_refused_for_licenses_of_the_new_sku(home: Home) -> None:
    move = ("migrate", "fleet.csv", "--account", ACCOUNT, "--from-sku", FLEXIBLE, "--to-sku", OTHER_SKU)
    assert home.run(*move, "--ledger", "first.db", "--run-dir", "move").code == 0
    before = home.executions()
    refused = home.run(*move, "--ledger", "new.db", "--run-dir", "again")
    assert (refused.code, f"{DEVICES} licenses of {OTHER_SKU} assigned" in refused.err) == (4, True)
    assert home.executions() == before


@pytest.mark.slow
def test_too_few_licenses_are_told_beside_a_new_ledger(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 20)
    with serving(SandboxConfig(licenses={FLEXIBLE: 30})) as url:
        here = Home(tmp_path, url)
        assert here.assign(run="first", ledger="first.db").code == 0
        refused = here.assign(run="again")
    assert (refused.code, "--new-ledger" in refused.err) == (4, True), refused.err
    assert f"has 10 licenses of {FLEXIBLE} left for 20 devices" in refused.err


@pytest.mark.slow
def test_the_first_run_on_an_account_without_licenses_is_not_asked(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 3)
    with serving(SandboxConfig()) as url:
        assert Home(tmp_path, url).assign(run="run").code == 0


@pytest.mark.slow
@pytest.mark.parametrize(("answers", "code", "executions"), [("n\n", 4, 2), ("y\ny\n", 0, 4)])
def test_on_a_terminal_it_is_asked(home: Home, answers: str, code: int, executions: int) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, answers.encode())
    arguments = ("assign", "fleet.csv", *LICENSE, "--ledger", "new.db", "--run-dir", "again")
    ended = subprocess.run(
        [sys.executable, "-m", "batchlic", *arguments],
        env=environment_of(keys(home.url), home.folder),
        cwd=home.folder,
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert (ended.returncode, home.executions()) == (code, executions), ended.stderr
    assert f"{DEVICES} licenses of {FLEXIBLE} assigned" in ended.stderr


class Carrier:
    """Counts 4,988 licenses as assigned, after some failures."""

    def __init__(self, failures: int, failure: int = 503) -> None:
        self.failures, self.failure = failures, failure
        self.assigned = 4988

    async def script(self, exchange: Exchange) -> None:
        if exchange.request.path == LICENSES:
            await take(exchange)
        elif exchange.request.path == COUNTS:
            await say_counts(exchange, assigned=self.assigned)
        else:
            await exchange.say(404)

    async def oauth(self, exchange: Exchange) -> None:
        self.failures -= 1
        if self.failures >= 0:
            await exchange.say(self.failure)
        else:
            await exchange.say(200, {"access_token": "access", "expires_in": 3600})


def start_at(carrier: Carrier, folder: Path, *commands: tuple[str, ...]) -> tuple[list[Ended], int]:
    """Run the commands one after another; how they ended, and the number of license requests."""
    fleet(folder / "fleet.csv", 3)
    with answering(carrier.script) as served:
        served.oauth_script = carrier.oauth
        ended = [batchlic(*command, settings=keys(served.url), cwd=folder) for command in commands]
        assert served.paths(OAUTH)
        return ended, len(served.paths(LICENSES))


ASSIGN = ("assign", "fleet.csv", *LICENSE, "--run-dir", "run")


@pytest.mark.slow
def test_an_outage_before_the_run_does_not_hide_the_licenses(tmp_path: Path) -> None:
    [ended], sent = start_at(Carrier(failures=2), tmp_path, ASSIGN)
    assert (ended.code, sent, "4,988 licenses" in ended.err) == (4, 0, True), ended.err


@pytest.mark.slow
def test_a_run_that_was_not_checked_is_checked_when_it_is_resumed(tmp_path: Path) -> None:
    carrier = Carrier(failures=1000)
    fleet(tmp_path / "fleet.csv", 3)
    with answering(carrier.script) as served:
        served.oauth_script, settings = carrier.oauth, keys(served.url)
        assert batchlic(*ASSIGN, "--give-up-after", "1", settings=settings, cwd=tmp_path).code == 6
        carrier.failures = 0
        assert batchlic("resume", "run", settings=settings, cwd=tmp_path).code == 4
        assert batchlic(*ASSIGN, settings=settings, cwd=tmp_path).code == 4
        assert not served.paths(LICENSES)


@pytest.mark.slow
def test_a_resumed_run_can_be_told_yes(tmp_path: Path) -> None:
    commands = (ASSIGN, ("resume", "run"), ("resume", "run", "--new-ledger"))
    ended, sent = start_at(Carrier(failures=2), tmp_path, *commands)
    assert ([one.code for one in ended], sent) == ([4, 4, 0], 1), ended[-1].err
    assert set(statuses(tmp_path / "run").values()) == {"accepted"}


@pytest.mark.slow
def test_a_run_that_has_sent_is_resumed_without_a_question(home: Home) -> None:
    assert home.assign("--new-ledger", "--batch-size", "10", run="again").code == 0
    assert home.run("resume", "again").code == 0


@pytest.mark.slow
def test_other_devices_of_a_known_account_are_not_asked_about(home: Home) -> None:
    (home.folder / "more.csv").write_text("\n".join(["IMEI", *map(imei, range(500, 510)), ""]))
    more = ("assign", "more.csv", *LICENSE, "--ledger", "first.db", "--run-dir", "more")
    assert home.run(*more).code == 0
    assert summary(home.folder / "more")["statuses"] == {"accepted": 10}
