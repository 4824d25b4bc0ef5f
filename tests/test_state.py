"""The state folder is found by rule, and a ledger is never split in two unnoticed."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from batchlic.database import postgresql
from batchlic.errors import UsageError
from batchlic.job import make_job
from batchlic.ledger import Ledger
from batchlic.runs.folder import RunFolder
from batchlic.runs.store_record import name_store
from batchlic.state import find_ledger, find_run, ledger_file, state_folder, with_state


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory and a home without anything; no setting names a folder."""
    for name in [name for name in os.environ if name.startswith(("BATCHLIC_", "XDG_", "STATE_"))]:
        monkeypatch.delenv(name)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "here"


def ledger_in(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ledger.db").touch()
    return folder / "ledger.db"


@pytest.mark.parametrize(
    ("settings", "made", "expected"),
    [
        ({}, "", "home/.local/state/batchlic"),
        ({"XDG_STATE_HOME": "{}/xdg"}, "", "xdg/batchlic"),
        ({"XDG_STATE_HOME": "relative"}, "", "home/.local/state/batchlic"),
        ({"XDG_STATE_HOME": "{}/xdg"}, "runs", "here/runs"),
        ({"STATE_DIRECTORY": "{}/lib"}, "", "lib"),
        ({"STATE_DIRECTORY": "{}/lib:{}/other", "XDG_STATE_HOME": "{}/xdg"}, "runs", "lib"),
        ({"BATCHLIC_STATE_DIR": "{}/own", "STATE_DIRECTORY": "{}/lib"}, "runs", "own"),
        ({"BATCHLIC_STATE_DIR": "~/own"}, "runs", "home/own"),
        ({"BATCHLIC_STATE_DIR": "", "STATE_DIRECTORY": ""}, "runs", "here/runs"),
    ],
)
def test_the_first_place_that_applies_is_the_state_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch, settings: Mapping[str, str], made: str, expected: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value.replace("{}", str(here.parent)))
    (here / made).mkdir(exist_ok=True)
    assert state_folder().absolute() == here.parent / expected
    assert find_ledger() == here.parent / expected / "ledger.db"


@pytest.mark.parametrize("place", ["home/.local/state/batchlic", "here/runs", "lib"])
def test_the_folder_that_has_a_ledger_comes_first(
    here: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(here.parent / "lib"))
    (here / "runs").mkdir()
    ledger = ledger_in(here.parent / place)
    assert find_ledger() == ledger
    assert state_folder().absolute() == ledger.parent


@pytest.mark.parametrize(
    "places",
    [
        ("here/runs", "home/.local/state/batchlic"),
        ("here/runs", "lib"),
        ("lib", "home/.local/state/batchlic"),
    ],
)
def test_two_ledgers_are_refused_and_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, places: tuple[str, str]
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(here.parent / "lib"))
    for place in places:
        ledger_in(here.parent / place)
    with pytest.raises(UsageError, match=r"two ledgers, .*BATCHLIC_STATE_DIR.*--ledger"):
        find_ledger()


@pytest.mark.parametrize("place", ["here/runs", "home/.local/state/batchlic", "own"])
def test_the_variable_settles_which_of_two_ledgers_counts(
    here: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    for name in ("here/runs", "home/.local/state/batchlic"):
        ledger_in(here.parent / name)
    monkeypatch.setenv("BATCHLIC_STATE_DIR", str(here.parent / place))
    assert find_ledger() == here.parent / place / "ledger.db"


def test_one_ledger_under_two_names_is_one_ledger(here: Path) -> None:
    ledger_in(here / "runs")
    (here.parent / "home" / ".local" / "state").mkdir(parents=True)
    (here.parent / "home" / ".local" / "state" / "batchlic").symlink_to(here / "runs")
    assert find_ledger() == here / "runs" / "ledger.db"


def test_with_a_store_the_ledger_is_in_the_store(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger_in(here / "runs")
    monkeypatch.setenv("BATCHLIC_STORE", "postgresql://me:planted@db.example/licenses")
    assert find_ledger() == find_ledger(Path("night")) == "postgresql://me@db.example/licenses"
    assert ledger_file() == here / "runs" / "ledger.db"


def with_ledger_in_store(here: Path, **tables: object) -> str | None:
    content = {"action": "assign", "inventory": {"files": ["fleet.csv"]}, "report": {"write": False}}
    job = make_job(content | tables, {}, where="test")
    return with_state(job, RunFolder(here / "runs" / "night")).ledger.path


def test_a_run_in_a_store_has_its_ledger_there(
    here: Path, monkeypatch: pytest.MonkeyPatch, empty_store: str
) -> None:
    assert with_ledger_in_store(here, store={"url": empty_store}) == empty_store
    monkeypatch.setenv("BATCHLIC_STORE", empty_store)
    assert with_ledger_in_store(here) == empty_store
    own = str(here / "own.db")
    assert with_ledger_in_store(here, ledger={"path": own}) == own


def test_the_lease_of_a_store_that_a_job_names_is_that_of_the_settings(
    here: Path, monkeypatch: pytest.MonkeyPatch, empty_store: str
) -> None:
    monkeypatch.setenv("BATCHLIC_LEASE_S", "7")
    with_ledger_in_store(here, store={"url": empty_store})
    assert postgresql.lease_of(empty_store) == 7


def test_the_lease_of_a_store_that_a_run_names_is_that_of_the_settings(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = "postgresql://me@db.example/named_by_a_run"
    (here / "night").mkdir()
    name_store(here / "night" / "store.json", store)
    monkeypatch.setenv("BATCHLIC_LEASE_S", "7")
    find_run("night")
    assert postgresql.lease_of(store) == 7


def test_a_store_does_not_split_a_ledger_unnoticed(
    here: Path, monkeypatch: pytest.MonkeyPatch, empty_store: str
) -> None:
    file = ledger_in(here / "runs")
    monkeypatch.setenv("BATCHLIC_STORE", empty_store)
    with pytest.raises(UsageError, match=f"no ledger in this database yet, but {file} is one"):
        with_ledger_in_store(here)
    Ledger(empty_store).close()
    assert with_ledger_in_store(here) == empty_store


def test_with_a_ledger_in_the_store_two_files_are_no_error(
    here: Path, monkeypatch: pytest.MonkeyPatch, empty_store: str
) -> None:
    monkeypatch.setenv("BATCHLIC_STORE", empty_store)
    for place in ("here/runs", "home/.local/state/batchlic"):
        ledger_in(here.parent / place)
    with pytest.raises(UsageError, match="two ledgers"):
        with_ledger_in_store(here)
    Ledger(empty_store).close()
    assert with_ledger_in_store(here) == empty_store


def test_a_container_without_a_home_has_its_ledger_in_the_store(
    here: Path, monkeypatch: pytest.MonkeyPatch, empty_store: str
) -> None:
    monkeypatch.setenv("BATCHLIC_STORE", empty_store)
    monkeypatch.setattr("pathlib.Path.home", _no_home)
    assert with_ledger_in_store(here) == empty_store


@pytest.mark.parametrize("run_dir", ["night", "deep/er/night", "../data/night", "runs/night"])
def test_a_named_run_folder_takes_its_ledger_with_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, run_dir: str
) -> None:
    ledger_in(here.parent / "home/.local/state/batchlic")
    assert find_ledger(Path(run_dir)) == Path(os.path.abspath(here / run_dir)).parent / "ledger.db"  # noqa: PTH100
    monkeypatch.setenv("BATCHLIC_STATE_DIR", str(here.parent / "own"))
    assert find_ledger(Path(run_dir)) == here.parent / "own" / "ledger.db"


def test_a_state_folder_in_an_object_store_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHLIC_STATE_DIR", "s3://bucket/runs")
    with pytest.raises(UsageError, match="name each run folder with --run-dir"):
        state_folder()
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("given", ["runs", "./runs", "../state", "."])
def test_a_relative_state_folder_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    (here / "runs").mkdir()
    monkeypatch.setenv("BATCHLIC_STATE_DIR", given)
    with pytest.raises(UsageError, match=r"BATCHLIC_STATE_DIR: .* relative path"):
        state_folder()


def test_the_variable_may_be_in_a_settings_file(here: Path) -> None:
    (here / ".env").write_text(f"BATCHLIC_STATE_DIR={here.parent}/own\n")
    (here / ".env").chmod(0o600)
    assert state_folder() == here.parent / "own"


@pytest.mark.usefixtures("here")
def test_without_any_home_the_variable_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathlib.Path.home", _no_home)
    with pytest.raises(UsageError, match="set BATCHLIC_STATE_DIR"):
        state_folder()


def _no_home() -> Path:
    raise RuntimeError("no home")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("tonight", "own/tonight"),
        ("local", "here/local"),
        ("nowhere", "here/nowhere"),
        ("./tonight", "here/tonight"),
        ("sub/tonight", "here/sub/tonight"),
    ],
)
def test_a_run_is_named_by_its_path_or_by_its_name(
    here: Path, monkeypatch: pytest.MonkeyPatch, given: str, expected: str
) -> None:
    monkeypatch.setenv("BATCHLIC_STATE_DIR", str(here.parent / "own"))
    for folder in ("own/tonight", "own/local", "here/local"):
        (here.parent / folder).mkdir(parents=True)
    assert find_run(given).absolute() == here.parent / expected
