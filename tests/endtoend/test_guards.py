"""Guards: what is refused before anything is sent, and that a plan and a dry run exit as the run would."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from batchlic.sandbox.config import SandboxConfig
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    LIFETIME,
    Ended,
    batchlic,
    fleet,
    imei,
    keys,
    summary,
)
from tests.forking import serving

BUNDLE = "TS-BUNDLE-KTO-SIMSEC-MRC"
TARGET = ("--account", ACCOUNT, "--sku", FLEXIBLE)
GUARD = ("--max-change", "20%")


def rehearse(folder: Path, *options: str, run: str = "runs/now", inventory: str = "fleet.csv") -> Ended:
    return batchlic("assign", inventory, *TARGET, "--sandbox", "--run-dir", run, *options, cwd=folder)


def job(folder: Path, inventory: str = "", license: str = "", action: str = "assign") -> Path:
    """The job `nightly` with lines for its tables."""
    path = folder / "nightly.toml"
    path.write_text(
        f'action = "{action}"\n[inventory]\nfiles = ["fleet.csv"]\n{inventory}\n'
        f'[license]\naccount = "{ACCOUNT}"\n{license or f"sku = {json.dumps(FLEXIBLE)}"}\n'
    )
    return path


def nightly(folder: Path, devices: int, run: str, *options: str, command: str = "run") -> Ended:
    """Run the job `nightly` against a sandbox with a fleet of so many devices."""
    fleet(folder / "fleet.csv", devices)
    return batchlic(
        command, "nightly.toml", "--run-dir", f"runs/{run}", *options, *on_sandbox(command), cwd=folder
    )


def on_sandbox(command: str) -> tuple[str, ...]:
    return () if command == "plan" else ("--sandbox",)


# -- minimum of rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("devices", "code"), [(9, 4), (10, 0)])
def test_fewer_rows_than_the_minimum_are_exit_4_with_both_numbers(
    tmp_path: Path, devices: int, code: int
) -> None:
    fleet(tmp_path / "fleet.csv", devices)
    ended = rehearse(tmp_path, "--min-rows", "10")
    assert ended.code == code
    if code:
        assert "9 rows read, but --min-rows" in ended.err
        assert "at least 10" in ended.err


@pytest.mark.slow
def test_the_minimum_of_a_job_counts_the_rows_of_all_files(tmp_path: Path) -> None:
    job(tmp_path, "min_rows = 1000").write_text(
        (tmp_path / "nightly.toml").read_text().replace('["fleet.csv"]', '["fleet.csv", "more.csv"]')
    )
    (tmp_path / "more.csv").write_text(f"IMEI\n{imei(998)}\n{imei(999)}\n")
    assert nightly(tmp_path, 997, "few").code == 4
    assert nightly(tmp_path, 998, "enough").code == 0


@pytest.mark.slow
def test_an_option_overrides_the_minimum_of_a_job(tmp_path: Path) -> None:
    job(tmp_path, "min_rows = 1000")
    assert nightly(tmp_path, 5, "tonight").code == 4
    assert nightly(tmp_path, 5, "tonight", "--min-rows", "5").code == 0


@pytest.mark.parametrize(
    ("options", "code"), [((*TARGET, "--min-rows", "6"), 4), (TARGET[2:], 2), (("--sku", "none"), 2)]
)
def test_a_refused_run_asks_no_carrier_and_leaves_no_folder(
    tmp_path: Path, options: tuple[str, ...], code: int
) -> None:
    fleet(tmp_path / "fleet.csv", 5)
    nobody_listens = keys("http://127.0.0.1:9/api")
    command = ("assign", "fleet.csv", *options, "--run-dir", "runs/tonight")
    assert batchlic(*command, settings=nobody_listens, cwd=tmp_path).code == code
    assert {path.name for path in tmp_path.rglob("*")} <= {"fleet.csv", "runs", "ledger.db"}


def test_a_refused_run_leaves_a_folder_that_was_there(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 5)
    (tmp_path / "runs/now").mkdir(parents=True)
    assert rehearse(tmp_path, "--min-rows", "6").code == 4
    assert (tmp_path / "runs/now").is_dir()


# -- change since the last run --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("then", "now", "allowed", "code"),
    [(100, 71, "0.29", 0), (2, 8, "250%", 4)],
)
def test_a_change_beyond_the_limit_is_exit_4_with_both_numbers(
    tmp_path: Path, then: int, now: int, allowed: str, code: int
) -> None:
    job(tmp_path)
    assert nightly(tmp_path, then, "earlier").code == 0
    ended = nightly(tmp_path, now, "tonight", "--max-change", allowed)
    assert ended.code == code, ended.err
    if code:
        assert f"{now} rows read, but {then} in the last run of this job" in ended.err
        assert summary(tmp_path / "runs/earlier")["run_id"] in ended.err
        assert not (tmp_path / "runs/tonight").exists()


@pytest.mark.slow
def test_the_advice_of_a_refusal_lets_the_same_inventory_run(tmp_path: Path) -> None:
    job(tmp_path, "max_change = 0.1")
    assert nightly(tmp_path, 30, "1").code == 0
    refused = nightly(tmp_path, 17, "2")
    assert (refused.code, "--max-change 44%" in refused.err) == (4, True)
    assert nightly(tmp_path, 17, "2", "--max-change", "44%").code == 0


@pytest.mark.slow
def test_the_last_run_of_the_job_is_the_one_that_began_last(tmp_path: Path) -> None:
    job(tmp_path, 'max_change = "50%"')
    assert [nightly(tmp_path, devices, run).code for devices, run in ((10, "z"), (14, "m"), (20, "a"))] == [
        0,
        0,
        0,
    ]
    assert nightly(tmp_path, 9, "q").code == 4


@pytest.mark.slow
def test_a_run_of_another_job_is_not_compared(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 500)
    job(tmp_path).rename(tmp_path / "other.toml")
    assert batchlic("run", "other.toml", "--sandbox", "--run-dir", "runs/other", cwd=tmp_path).code == 0
    assert rehearse(tmp_path, run="runs/without-name").code == 0
    job(tmp_path, 'max_change = "1%"')
    ended = nightly(tmp_path, 5, "1")
    assert (ended.code, "no earlier run of this job" in ended.out) == (0, True)


@pytest.mark.slow
def test_a_run_of_another_action_is_not_compared(tmp_path: Path) -> None:
    job(tmp_path)
    assert nightly(tmp_path, 100, "given").code == 0
    job(tmp_path, action="unassign")
    assert nightly(tmp_path, 5, "taken", *GUARD, "--max-rejects", "5").code in {0, 3}


@pytest.mark.slow
def test_jobs_without_a_name_are_the_same_with_one_account_and_sku(tmp_path: Path) -> None:
    fleet(tmp_path / "monday.csv", 100)
    fleet(tmp_path / "tuesday.csv", 10)
    assert rehearse(tmp_path, inventory="monday.csv", run="runs/1").code == 0
    assert rehearse(tmp_path, *GUARD, inventory="tuesday.csv", run="runs/2").code == 4
    other = (*GUARD, "--account", "0000123456-00002")
    assert rehearse(tmp_path, *other, inventory="tuesday.csv", run="runs/2").code == 0


@pytest.mark.slow
def test_valid_devices_that_vanish_are_a_change_even_if_the_rows_are_there(tmp_path: Path) -> None:
    job(tmp_path, 'max_change = "20%"')
    assert nightly(tmp_path, 10, "1").code == 0
    rows = [*map(imei, range(7)), "8.64508E+14", "8.64508E+14", "8.64508E+14"]
    (tmp_path / "fleet.csv").write_text("\n".join(["IMEI", *rows, ""]))
    ended = batchlic("run", "nightly.toml", "--sandbox", "--run-dir", "runs/2", cwd=tmp_path)
    assert (ended.code, "7 valid devices read, but 10 in" in ended.err) == (4, True)


@pytest.mark.slow
def test_an_empty_night_is_no_measure_for_the_next_one(tmp_path: Path) -> None:
    job(tmp_path, "allow_empty = true")
    assert [nightly(tmp_path, devices, f"{devices}").code for devices in (10, 0)] == [0, 0]
    assert nightly(tmp_path, 11, "next", *GUARD).code == 0
    assert nightly(tmp_path, 2, "last", *GUARD).code == 4


@pytest.mark.slow
def test_without_an_earlier_run_a_note_says_so(tmp_path: Path) -> None:
    job(tmp_path, 'max_change = "20%"')
    assert nightly(tmp_path, 10, "1").code == 0
    [note] = summary(tmp_path / "runs/1")["notes"]
    assert note.startswith("no earlier run of this job in ")


@pytest.mark.slow
def test_an_earlier_run_that_cannot_be_read_is_named_in_a_note(tmp_path: Path) -> None:
    job(tmp_path, 'max_change = "20%"')
    assert [nightly(tmp_path, 10, run).code for run in ("1", "2")] == [0, 0]
    (tmp_path / "runs/2/journal.db").write_bytes(b"SQLite format 3\0" + bytes(2000))
    assert nightly(tmp_path, 10, "3").code == 0
    [note] = summary(tmp_path / "runs/3")["notes"]
    assert "runs/2/journal.db" in note


@pytest.mark.slow
def test_a_real_run_is_compared_with_real_runs_rather_than_rehearsals(tmp_path: Path) -> None:
    job(tmp_path, 'max_change = "20%"')
    with serving(SandboxConfig()) as url:

        def real(devices: int, run: str) -> int:
            fleet(tmp_path / "fleet.csv", devices)
            options = ("nightly.toml", "--no-ledger", "--run-dir", f"runs/{run}")
            return batchlic("run", *options, settings=keys(url), cwd=tmp_path).code

        assert nightly(tmp_path, 10, "rehearsal").code == 0
        assert real(50, "1") == 4
        assert nightly(tmp_path, 50, "rehearsal 2", "--max-change", "400%").code == 0
        assert real(50, "1") == 0
        assert nightly(tmp_path, 5, "rehearsal 3", "--max-change", "100%").code == 0
        assert real(6, "2") == 4
        assert real(51, "2") == 0


@pytest.mark.slow
def test_a_run_that_continues_is_not_compared_again(tmp_path: Path) -> None:
    job(tmp_path)
    assert [nightly(tmp_path, devices, run).code for devices, run in ((10, "1"), (50, "2"))] == [0, 0]
    again = nightly(tmp_path, 50, "2", *GUARD, "--min-rows", "1000")
    assert (again.code, summary(tmp_path / "runs/2")["rows_read"]) == (0, 50)
    assert batchlic("resume", "runs/2", "--sandbox", cwd=tmp_path).code == 0


@pytest.mark.slow
def test_a_plan_is_no_run_to_compare_with(tmp_path: Path) -> None:
    job(tmp_path, 'max_change = "20%"')
    assert nightly(tmp_path, 100, "planned", command="plan").code == 0
    assert nightly(tmp_path, 10, "planned").code == 0


# -- the same exit code ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """An inventory, options, and the exit code of its run."""

    code: int
    rows: Sequence[str] = (imei(1), imei(2))
    options: tuple[str, ...] = TARGET
    header: str = "IMEI"
    earlier: int = 0
    """Devices of an earlier run in the folder of runs; 0 for no such run."""


CASES = {
    "a tolerated reject": Case(0, rows=(imei(1), "123"), options=(*TARGET, "--max-rejects", "1")),
    "a reject too many": Case(3, rows=("1", "2", imei(1)), options=(*TARGET, "--max-rejects", "1")),
    "only rejects": Case(3, rows=("123", "456")),
    "a conflict": Case(3, header="IMEI,SKU", rows=(f"{imei(1)},{FLEXIBLE}", f"{imei(1)},{BUNDLE}")),
    "no rows": Case(2, rows=()),
    "no rows allowed": Case(0, rows=(), options=(*TARGET, "--allow-empty")),
    "no rows allowed, but a minimum": Case(4, rows=(), options=(*TARGET, "--allow-empty", "--min-rows", "1")),
    "no identifiers": Case(2, header="Site"),
    "no account": Case(2, options=TARGET[2:]),
    "no SKU": Case(2, options=TARGET[:2]),
    "an unknown SKU": Case(2, options=(*TARGET[:2], "--sku", "SIMSec")),
    "an unknown SKU in a cell": Case(3, header="IMEI,SKU", rows=(f"{imei(1)},SIMSec",)),
    "a Lifetime license": Case(4, header="IMEI,SKU", rows=(f"{imei(1)},{LIFETIME}",)),
    "a Lifetime license and a reject": Case(4, options=(*TARGET[:2], "--sku", LIFETIME), rows=(imei(1), "1")),
    "consent": Case(0, options=(*TARGET[:2], "--sku", LIFETIME, "--consent-lifetime")),
    "too few rows": Case(4, options=(*TARGET, "--min-rows", "3")),
    "too large a change": Case(4, options=(*TARGET, *GUARD), earlier=100),
    "a small change": Case(0, options=(*TARGET, "--max-change", "98%"), earlier=100),
    "a change that is no percentage": Case(2, options=(*TARGET, "--max-change", "20")),
    "a minimum that is no number": Case(2, options=(*TARGET, "--min-rows", "many")),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_plan_and_a_dry_run_exit_as_the_run_does(tmp_path: Path, case: Case) -> None:
    if case.earlier:
        fleet(tmp_path / "earlier.csv", case.earlier)
        assert rehearse(tmp_path, inventory="earlier.csv", run="runs/earlier").code == 0
    (tmp_path / "fleet.csv").write_text("\n".join([case.header, *case.rows, ""]))
    commands = {
        "plan": ("plan", "--run-dir", "runs/plan"),
        "dry run": ("assign", "--sandbox", "--dry-run", "--run-dir", "runs/run"),
        "run": ("assign", "--sandbox", "--run-dir", "runs/run"),
    }
    ended = {
        name: batchlic(command, "fleet.csv", *case.options, *options, cwd=tmp_path)
        for name, (command, *options) in commands.items()
    }
    codes = {name: one.code for name, one in ended.items()}
    assert codes == dict.fromkeys(commands, case.code), ended["plan"].err


@pytest.mark.parametrize(
    ("license", "action", "code"),
    [
        (f'from_sku = "{FLEXIBLE}"\nto_sku = "{LIFETIME}"', "migrate", 4),
        (f'from_sku = "{FLEXIBLE}"\nto_sku = "{LIFETIME}"\nconsent_lifetime = true', "migrate", 0),
        (f'sku = "{LIFETIME}"', "unassign", 3),
    ],
)
def test_a_planned_job_exits_as_its_dry_run(tmp_path: Path, license: str, action: str, code: int) -> None:
    job(tmp_path, license=license, action=action)
    assert nightly(tmp_path, 5, "a", command="plan").code == code
    assert nightly(tmp_path, 5, "b", "--dry-run").code == code


def test_a_plan_that_exits_3_says_why(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 2, "123")
    planned = batchlic("plan", "fleet.csv", *TARGET, cwd=tmp_path)
    assert "Exit code 3, as the run would have: 1 row rejected (--max-rejects 0)" in planned.out


def test_a_plan_without_consent_is_still_shown_and_kept(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 2)
    options = ("--account", ACCOUNT, "--sku", LIFETIME, "--run-dir", "plan")
    planned = batchlic("plan", "fleet.csv", *options, cwd=tmp_path)
    assert f"account {ACCOUNT}, SKU {LIFETIME}" in planned.out
    assert "--consent-lifetime" in planned.err
    assert (tmp_path / "plan/plan.parquet").exists()


@pytest.mark.slow
def test_a_dry_run_in_the_folder_of_another_run_is_refused_as_the_run(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 2)
    assert rehearse(tmp_path).code == 0
    for options in (("--dry-run",), ()):
        other = rehearse(tmp_path, "--id-kind", "iccid", *options)
        assert (other.code, "holds another run already" in other.err) == (2, True)


def test_a_dry_run_checks_the_options_for_callbacks_as_the_run(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 2)
    for options in (("--dry-run",), ()):
        assert rehearse(tmp_path, "--listen-port", "0", *options).code == 2


@pytest.mark.parametrize("json_option", [(), ("--json",)])
def test_a_run_of_an_allowed_empty_inventory_says_that_nothing_was_to_do(
    tmp_path: Path, json_option: tuple[str, ...]
) -> None:
    fleet(tmp_path / "fleet.csv", 0)
    ended = rehearse(tmp_path, "--allow-empty", *json_option)
    assert ended.code == 0
    if json_option:
        assert json.loads(ended.out)["rows_read"] == 0
    else:
        assert "Finished: nothing to do" in ended.out


def test_an_import_of_an_empty_list_is_refused_unless_allowed(tmp_path: Path) -> None:
    fleet(tmp_path / "list.csv", 0)
    refused = batchlic("ledger", "import", "list.csv", *TARGET, cwd=tmp_path)
    assert (refused.code, "--allow-empty" in refused.err) == (2, True)
    assert batchlic("ledger", "import", "list.csv", *TARGET, "--allow-empty", cwd=tmp_path).code == 0
