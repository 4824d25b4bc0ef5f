"""Questions before what can't be undone: on a terminal they are asked, without one they are refused."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from batchlic.sandbox.config import Fault, SandboxConfig
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    LIFETIME,
    Ended,
    batchlic,
    books,
    fleet,
    keys,
    summary,
)
from tests.endtoend.terminal import Screen, on_terminal
from tests.forking import serving

ASSIGN = ("assign", "fleet.csv", "--account", ACCOUNT, "--run-dir", "run", "--consent-lifetime")


@dataclass(frozen=True)
class Home:
    path: Path
    url: str

    def batchlic(self, *arguments: str) -> Ended:
        return batchlic(*arguments, settings=keys(self.url), cwd=self.path)

    def on_terminal(self, *arguments: str, typing: dict[str, str]) -> Screen:
        return on_terminal(*arguments, typing=typing, settings=keys(self.url), cwd=self.path)

    def licensed(self, sku: str = LIFETIME) -> int:
        return sum(record["licenses"].get(sku, 0) for record in books(self.url).values())

    def statuses(self) -> dict[str, int]:
        found: dict[str, int] = summary(self.path / "run")["statuses"]
        return found


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    fleet(tmp_path / "fleet.csv", 3)
    with serving(SandboxConfig()) as url:
        yield Home(tmp_path, url)


@pytest.fixture
def doubtful(tmp_path: Path) -> Iterator[Home]:
    """A run of 30 Lifetime licenses in 3 batches, all in doubt."""
    fleet(tmp_path / "fleet.csv", 30)
    with serving(SandboxConfig(faults={Fault.RESET_AFTER: 1.0})) as url:
        here = Home(tmp_path, url)
        assert here.batchlic(*ASSIGN, "--sku", LIFETIME, "--batch-size", "10").code == 3
        yield here


# -- settle ---------------------------------------------------------------------------------------------

SETTLE = ("settle", "run", "--reason", "the portal", "--as")
QUESTION = "30 devices in doubt, in 3 batches"


@pytest.mark.slow
@pytest.mark.parametrize("outcome", ["accepted", "failed"])
def test_settling_everything_without_a_terminal_is_refused_with_the_count(
    doubtful: Home, outcome: str
) -> None:
    refused = doubtful.batchlic(*SETTLE, outcome)
    assert (refused.code, QUESTION in refused.err, "--yes" in refused.err) == (4, True, True), refused.err
    assert f"settle them as {outcome}?" in refused.err
    assert doubtful.statuses() == {"in_doubt": 30}
    assert doubtful.batchlic(*SETTLE, outcome, "--yes").code == (0 if outcome == "accepted" else 3)
    assert doubtful.statuses() == {outcome: 30}


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "code", "status"), [("y", 0, "accepted"), ("n", 4, "in_doubt")])
def test_settling_everything_on_a_terminal_asks(doubtful: Home, answer: str, code: int, status: str) -> None:
    screen = doubtful.on_terminal(*SETTLE, "accepted", typing={QUESTION: answer})
    assert screen.code == code, screen.text
    assert doubtful.statuses() == {status: 30}


@pytest.mark.slow
def test_settling_named_batches_and_devices_asks_nothing(doubtful: Home) -> None:
    assert doubtful.batchlic(*SETTLE, "accepted", "--batch", "2").code == 3
    device = json.loads(doubtful.batchlic("status", "run", "--json").out)["doubts"][0]["devices"][0]
    assert doubtful.batchlic(*SETTLE, "failed", "--device", device).code == 3
    assert doubtful.statuses() == {"accepted": 10, "failed": 1, "in_doubt": 19}


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "code"), [(LIFETIME.lower(), 4), (LIFETIME, 6)])
def test_sending_lifetime_licenses_again_wants_the_sku(doubtful: Home, typed: str, code: int) -> None:
    command = (*SETTLE, "resend", "--consent-lifetime")
    screen = doubtful.on_terminal(*command, typing={f"Type {LIFETIME}": typed})
    assert screen.code == code, screen.text
    assert "cannot be undone" in screen.text
    assert doubtful.statuses() == {"pending" if code == 6 else "in_doubt": 30}


@pytest.mark.slow
def test_a_run_without_doubt_has_nothing_to_ask(home: Home) -> None:
    assert home.batchlic(*ASSIGN, "--sku", FLEXIBLE).code == 0
    refused = home.batchlic(*SETTLE, "accepted")
    assert (refused.code, "nothing is in doubt" in refused.err) == (2, True)


# -- Lifetime licenses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "code", "licensed"),
    [(f" {LIFETIME} ", 0, 3), ("y", 4, 0), (FLEXIBLE, 4, 0)],
)
def test_assigning_lifetime_licenses_wants_the_sku(home: Home, typed: str, code: int, licensed: int) -> None:
    command = (*ASSIGN, "--sku", LIFETIME)
    screen = home.on_terminal(*command, typing={f"Type {LIFETIME} to go on": typed})
    assert (screen.code, home.licensed()) == (code, licensed), screen.text
    assert "cannot be undone" in screen.text


@pytest.mark.slow
def test_moving_devices_to_a_lifetime_sku_wants_the_new_sku(home: Home) -> None:
    assert home.batchlic(*ASSIGN, "--sku", FLEXIBLE).code == 0
    skus = ("--from-sku", FLEXIBLE, "--to-sku", LIFETIME, "--consent-lifetime")
    command = ("migrate", "fleet.csv", "--account", ACCOUNT, *skus, "--run-dir", "move")
    refused = home.on_terminal(*command, typing={f"Type {LIFETIME}": FLEXIBLE})
    assert (refused.code, home.licensed()) == (4, 0), refused.text
    moved = home.on_terminal(*command, typing={f"Type {LIFETIME}": LIFETIME})
    assert (moved.code, home.licensed(), home.licensed(FLEXIBLE)) == (0, 3, 0), moved.text


@pytest.mark.slow
def test_a_mixed_inventory_wants_only_the_lifetime_sku(home: Home) -> None:
    rows = (home.path / "fleet.csv").read_text().split()[1:]
    skus = (LIFETIME, FLEXIBLE, FLEXIBLE)
    text = "\n".join(["IMEI,SKU", *(f"{imei},{sku}" for imei, sku in zip(rows, skus, strict=True)), ""])
    (home.path / "fleet.csv").write_text(text)
    screen = home.on_terminal(*ASSIGN, typing={f"Type {LIFETIME}": LIFETIME})
    assert (screen.code, home.licensed(), home.licensed(FLEXIBLE)) == (0, 1, 2), screen.text
    assert screen.text.count("cannot be undone") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("command", "sku"), [("assign", FLEXIBLE), ("unassign", FLEXIBLE)])
def test_flexible_licenses_want_a_yes(home: Home, command: str, sku: str) -> None:
    options = ("fleet.csv", "--account", ACCOUNT, "--sku", sku, "--run-dir", "run")
    screen = home.on_terminal(command, *options, typing={"[y/N]": "y"})
    assert screen.code == 0, screen.text
    assert "cannot be undone" not in screen.text


@pytest.mark.slow
def test_a_yes_option_asks_nothing_even_for_lifetime_licenses(home: Home) -> None:
    screen = home.on_terminal(*ASSIGN, "--sku", LIFETIME, "--yes", typing={})
    assert (screen.code, home.licensed()) == (0, 3), screen.text


# -- plurals --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "text"), [(1, "1 device"), (3, "3 devices")])
def test_the_nouns_of_a_run_fit_their_numbers(home: Home, devices: int, text: str) -> None:
    fleet(home.path / "fleet.csv", devices)
    ended = home.batchlic(*ASSIGN, "--sku", FLEXIBLE)
    assert f"Finished: {devices} accepted" in ended.out
    assert re.search(rf"planned +{text.replace(' ', '  ')} in 1 batch\n", ended.out)
    assert re.search(r"read +1  row from" if devices == 1 else r"read +3  rows from", ended.out)
    exported = home.batchlic("export", "run", "--what", "all", "--to", "all.csv")
    assert exported.out == f"{'1 row' if devices == 1 else '3 rows'} in all.csv\n"
    ledger = home.batchlic("ledger", "export", "--to", "ledger.csv")
    assert ledger.out == f"{text} in ledger.csv\n"


# -- ledger forget --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_forget_says_which_devices_stay_recorded(home: Home) -> None:
    assert home.batchlic(*ASSIGN, "--sku", FLEXIBLE).code == 0
    run_id = summary(home.path / "run")["run_id"]
    forgotten = home.batchlic("ledger", "forget", run_id)
    assert forgotten.code == 0
    assert f"Run {run_id} was closed already" in forgotten.out
    assert f"3 devices of account {ACCOUNT}, SKU {FLEXIBLE}: the records stay" in forgotten.out


@pytest.mark.slow
def test_forget_of_an_unfinished_run_says_what_is_unknown(home: Home) -> None:
    rows = (home.path / "fleet.csv").read_text().split()[1:]
    second = "0000123456-00002"
    skus = [f"{rows[0]},{ACCOUNT}", f"{rows[1]},{second}", f"{rows[2]},{second}"]
    (home.path / "fleet.csv").write_text("\n".join(["IMEI,Account", *skus, ""]))
    assert home.batchlic("assign", "fleet.csv", "--sku", FLEXIBLE, "--run-dir", "run").code == 0
    run_id = summary(home.path / "run")["run_id"]
    from batchlic.ledger import Ledger, RunEntry  # noqa: PLC0415 - the state that a kill leaves

    ledger = Ledger(home.path / "runs" / "ledger.db")
    ledger.register(RunEntry(run_id, home.url, str(home.path / "gone"), 0))
    ledger.register(RunEntry("silent", home.url, str(home.path / "gone"), 0))
    ledger.close()
    forgotten = home.batchlic("ledger", "forget", run_id, "--json")
    report = json.loads(forgotten.out)
    assert (report["was_open"], report["carrier"]) == (True, home.url)
    assert [(one["account_name"], one["sku_number"], one["devices"]) for one in report["recorded"]] == [
        (ACCOUNT, FLEXIBLE, 1),
        (second, FLEXIBLE, 2),
    ]
    silent = home.batchlic("ledger", "forget", "silent").out
    assert f"Run silent at {home.url} is closed." in silent
    assert "It has no records of devices." in silent
    assert "is unknown now" in silent
