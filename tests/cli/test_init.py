"""`batchlic init` writes job files that batchlic runs."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from batchlic.cli.app import app
from batchlic.errors import BatchlicError, ExitCode
from batchlic.job import Job, load_job
from tests.endtoend.program import ACCOUNT, FLEXIBLE, LIFETIME, fleet
from tests.endtoend.terminal import on_terminal

LICENSE = ("--account", ACCOUNT, "--sku", FLEXIBLE)
MOVE = ("--account", ACCOUNT, "--from-sku", FLEXIBLE, "--to-sku", "TS-BUNDLE-KTO-SIMSEC-MRC")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fleet(tmp_path / "fleet.csv", 3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCHLIC_STATE_DIR", str(tmp_path / "runs"))
    return tmp_path


def init(*words: str) -> Result:
    return CliRunner().invoke(app, ["init", *words])


def refused(*words: str) -> str:
    """What `init` says as it refuses, with exit code 2 or 4."""
    error = init(*words).exception
    assert isinstance(error, BatchlicError)
    assert error.exit_code in {ExitCode.USAGE, ExitCode.REFUSED}
    return str(error)


def written(*words: str, path: str = "nightly.toml") -> Job:
    done = init(path, *words)
    assert done.exit_code == ExitCode.OK, done.output
    return load_job(Path(path), {})


@pytest.mark.slow
def test_options_alone_write_a_job_that_can_be_checked() -> None:
    job = written("--inventory", "fleet.csv", *LICENSE, "--yes")
    assert (job.name, job.action, job.inventory.files) == ("nightly", "assign", ["fleet.csv"])
    assert (job.license.account, job.license.sku, job.limits.max_rejects) == (ACCOUNT, FLEXIBLE, 0)
    checked = CliRunner().invoke(app, ["check", "nightly.toml", "--sandbox"])
    assert checked.exit_code == ExitCode.OK, checked.stdout


@pytest.mark.parametrize("action", ["assign", "unassign", "sync"])
def test_every_action_gives_a_job(action: str) -> None:
    assert written("--action", action, "--inventory", "fleet.csv", *LICENSE, "--yes").action == action


def test_a_migration_and_the_limits_of_a_sync_have_options_of_their_own() -> None:
    assert (
        written("--action", "migrate", "--inventory", "fleet.csv", *MOVE, "--yes").license.to_sku == MOVE[-1]
    )
    words = ("--action", "sync", "--inventory", "fleet.csv", *LICENSE, "--max-removals", "7", "--yes")
    job = written(*words, path="sync.toml")
    assert job.sync is not None
    assert job.sync.max_removals == "7"


@pytest.mark.parametrize("has_schema", [True, False])
def test_a_schema_beside_the_job_is_named_in_its_first_line(home: Path, *, has_schema: bool) -> None:
    if has_schema:
        (home / "batchlic-job.schema.json").write_text("{}")
    written("--inventory", "fleet.csv", *LICENSE, "--yes")
    first = (home / "nightly.toml").read_text().splitlines()[0]
    assert (first == "#:schema ./batchlic-job.schema.json") == has_schema


def test_the_inventory_is_found_from_the_folder_of_the_job(home: Path) -> None:
    (home / "jobs").mkdir()
    job = written("--inventory", "fleet.csv", *LICENSE, "--yes", path="jobs/nightly.toml")
    assert job.inventory.files == ["fleet.csv"]
    assert 'files = ["../fleet.csv"]' in (home / "jobs/nightly.toml").read_text()


def test_what_was_found_in_the_inventory_is_said_with_the_next_steps() -> None:
    shown = init("nightly.toml", "--inventory", "fleet.csv", *LICENSE, "--yes").stdout
    assert "fleet.csv: imei in 'IMEI'" in shown
    assert "batchlic check nightly.toml --sandbox" in shown


def test_columns_of_account_and_sku_are_not_asked_for(home: Path) -> None:
    (home / "rows.csv").write_text(f"imei,account,sku\n864508030000004,{ACCOUNT},{FLEXIBLE}\n")
    job = written("--inventory", "rows.csv", "--yes")
    assert (job.license.account, job.license.sku) == (None, None)


def test_a_column_that_is_not_recognized_can_be_named(home: Path) -> None:
    (home / "odd.csv").write_text("serial of modem,site\n864508030000004,a\n")
    words = ("--inventory", "odd.csv", "--column", "imei=serial of modem", *LICENSE, "--yes")
    assert written(*words).inventory.columns == {"imei": "serial of modem"}


def test_without_a_terminal_the_missing_options_are_named() -> None:
    assert "give --action, --inventory, --account, --sku and --max-rejects" in refused("nightly.toml")
    assert not Path("nightly.toml").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--inventory", "missing.csv", *LICENSE), "missing.csv"),
        (("--action", "unassign", "--inventory", "fleet.csv", *LICENSE[:3], LIFETIME), "can't be unassigned"),
        (("--inventory", "fleet.csv", "--account", "x", "--sku", FLEXIBLE), "--account: "),
        (
            ("--inventory", "fleet.csv", "--account", ACCOUNT, "--sku", "SIMSec-IoTT"),
            "did you mean SIMSec-IoT",
        ),
        (
            ("--inventory", "fleet.csv", *LICENSE, "--max-removals", "200%", "--action", "sync"),
            "at most 100%",
        ),
    ],
)
def test_a_wrong_answer_is_refused_and_writes_nothing(words: tuple[str, ...], says: str) -> None:
    assert says in refused("nightly.toml", *words, "--yes")
    assert not Path("nightly.toml").exists()


def test_a_file_that_exists_is_replaced_only_with_overwrite() -> None:
    Path("nightly.toml").write_text("mine")
    words = ("nightly.toml", "--inventory", "fleet.csv", *LICENSE, "--yes")
    assert "exists already" in refused(*words)
    assert Path("nightly.toml").read_text() == "mine"
    assert init(*words, "--overwrite").exit_code == ExitCode.OK


@pytest.mark.parametrize(("answer", "is_allowed"), [("y", True), ("n", False)])
def test_a_terminal_is_asked_and_wrong_answers_are_asked_again(
    home: Path, answer: str, *, is_allowed: bool
) -> None:
    typing = {
        "What to do": "asign",
        "is no action": "assign",
        "File that lists": "fleet.csv",
        "Account of": ACCOUNT,
        "SKU of": LIFETIME,
        "Allow it?": answer,
        "Rejected rows": "10",
    }
    screen = on_terminal("init", "nightly.toml", typing=typing, settings={}, cwd=home)
    assert screen.code == ExitCode.OK, screen.text
    job = load_job(home / "nightly.toml", {})
    assert (job.license.sku, job.license.consent_lifetime) == (LIFETIME, is_allowed)
    assert job.limits.max_rejects == 10
    assert "Wrote nightly.toml" in screen.text
