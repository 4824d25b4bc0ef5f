"""A whole run with its folder in an object store and its journal in PostgreSQL, on several machines."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from batchlic.cli.callbacks import _store
from batchlic.cli.options import WaitOptions
from batchlic.errors import UsageError
from batchlic.runs.folder import RunFolder
from batchlic.sandbox.config import LatencyConfig, Poison, SandboxConfig
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    Ended,
    batchlic,
    begin,
    books,
    end,
    fleet,
    imei,
    keys,
    until,
)
from tests.forking import serving
from tests.objectstore.builders import BUCKET, environment_of, request, s3_server
from tests.postgresql import PostgreSQL

DEVICES = 250

Machine = Callable[..., Ended]


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of an S3-compatible server with an empty bucket.

    The fixtures of a module can be made twice, and all servers of a process have the same objects.
    """
    with s3_server() as port:
        request(port, "POST", "/moto-api/reset")
        request(port, "PUT", f"/{BUCKET}/")
        yield port


@pytest.fixture(scope="module")
def settings(server: int, postgresql: PostgreSQL) -> dict[str, str]:
    """The settings that all machines share."""
    return {**environment_of(server), "BATCHLIC_STORE": postgresql.new_database("object_storage")}


@pytest.fixture
def machine(settings: dict[str, str], tmp_path: Path) -> Machine:
    """Runs commands, each on another machine: without any file that an earlier one left."""
    number = iter(range(1000))

    def run(*arguments: str | Path, **others: str) -> Ended:
        folder = tmp_path / f"machine-{next(number)}"
        (folder / "tmp").mkdir(parents=True)
        ended = batchlic(
            *arguments, settings={**settings, "TMPDIR": str(folder / "tmp"), **others}, cwd=folder
        )
        assert list((folder / "tmp").iterdir()) == [], "a copy was left"
        assert str(folder / "tmp") not in ended.out + ended.err, "a message names the copy"
        return ended

    return run


@pytest.fixture(scope="module")
def url(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a finished run."""
    url = f"s3://{BUCKET}/fleet/first"
    folder = tmp_path_factory.mktemp("first")
    ended = batchlic(*assign(url, folder), settings=settings, cwd=folder)
    assert ended.code == 3, ended.err
    assert f"{DEVICES} " in ended.out
    return url


def assign(url: str, folder: Path, *more: str) -> list[str | Path]:
    inventory = fleet(folder / "fleet.csv", DEVICES, "123")
    return [
        "assign",
        inventory,
        "--account",
        ACCOUNT,
        "--sku",
        FLEXIBLE,
        "--run-dir",
        url,
        "--sandbox",
        "--no-report",
        *more,
    ]


@pytest.mark.slow
def test_status_shows_the_run_on_another_machine(machine: Machine, url: str) -> None:
    ended = machine("status", url, "--json")
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert report["statuses"] == {"accepted": DEVICES}
    assert report["exit_code"] == 3


def test_what_to_do_next_names_no_object_that_does_not_exist(machine: Machine, url: str) -> None:
    ended = machine("status", url)
    assert f"rejected: batchlic export {url} --what rejects" in ended.out
    assert f"{url}/rejects.parquet" not in ended.out


def test_a_run_that_does_not_exist_is_an_error_that_says_where_to_look(machine: Machine, url: str) -> None:
    ended = machine("status", f"{url}-typo")
    assert ended.code == 2
    assert f"{url}-typo: there is no such run folder; `batchlic runs {url.rpartition('/')[0]}`" in ended.err


def test_the_store_has_the_address_of_the_run(settings: dict[str, str], url: str) -> None:
    with psycopg.connect(settings["BATCHLIC_STORE"]) as connection:
        folders = [folder for (folder,) in connection.execute("SELECT folder FROM journals ORDER BY folder")]
    assert folders[:1] == [url]


def test_export_reads_the_rejects(machine: Machine, url: str) -> None:
    ended = machine("export", url)
    assert ended.code == 0, ended.err
    assert len(ended.out.splitlines()) == 2


@pytest.mark.slow
def test_report_is_made_from_the_run(machine: Machine, url: str, tmp_path: Path) -> None:
    ended = machine("report", url, "--to", tmp_path / "report.html")
    assert ended.code == 0, ended.err
    assert f"{DEVICES}" in (tmp_path / "report.html").read_text()


def test_audit_verifies_the_files(machine: Machine, url: str) -> None:
    ended = machine("audit", url, "--verify")
    assert ended.code == 0, ended.out + ended.err


def test_audit_follows_a_device_through_the_runs(machine: Machine, url: str) -> None:
    ended = machine("audit", url.rpartition("/")[0], "--device", imei(7), "--json")
    assert ended.code == 0, ended.err
    assert {event["run_dir"] for event in json.loads(ended.out)} == {url}


def test_runs_lists_the_runs_below_an_address(machine: Machine, url: str) -> None:
    ended = machine("runs", f"s3://{BUCKET}/fleet", "--json")
    assert ended.code == 0, ended.err
    listed = {run["run_dir"]: run for run in json.loads(ended.out)}
    assert listed[url]["state"] == "finished"
    assert listed[url]["statuses"] == {"accepted": DEVICES}


def test_a_retry_gets_a_folder_beside_the_run(machine: Machine, url: str) -> None:
    ended = machine("retry", url, "--sandbox")
    assert (ended.code, "nothing to retry" in ended.err) == (4, True)


@pytest.mark.slow
def test_a_retry_and_a_rollback_are_known_by_their_addresses(machine: Machine, tmp_path: Path) -> None:
    first, again = (f"s3://{BUCKET}/failing/{name}" for name in ("first", "again"))
    inventory = fleet(tmp_path / "fleet.csv", DEVICES)
    options = ["--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", first, "--no-ledger", "--no-report"]
    with serving(SandboxConfig(poison=(Poison(identifier=imei(7)),))) as carrier:
        assert machine("assign", inventory, *options, **keys(carrier)).code == 3
        assert machine("retry", first, "--run-dir", again, **keys(carrier)).code == 3
        assert machine("rollback", first, "--by", "device", "--yes", **keys(carrier)).code == 0
    listed = json.loads(machine("runs", f"s3://{BUCKET}/failing", "--json").out)
    assert {run["run_dir"] for run in listed} == {first, again, f"{first}/rollback-by-device"}
    export = tmp_path / "again.csv"
    assert machine("export", again, "--what", "all", "--to", export).code == 0
    rows = csv.DictReader(export.read_text().splitlines())
    assert [row["source"] for row in rows] == [f"{again}/retried.parquet"]


def test_a_run_without_a_store_for_the_journal_is_refused(machine: Machine, tmp_path: Path) -> None:
    new = f"s3://{BUCKET}/fleet/without"
    ended = machine(*assign(new, tmp_path), BATCHLIC_STORE="")
    assert ended.code == 2
    assert f"{new}: a run in an object store needs a PostgreSQL database" in ended.err
    assert machine("status", new).code == 2


def test_a_listener_without_a_database_for_callbacks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BATCHLIC_STORE", "BATCHLIC_LISTENER_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("batchlic.objectstore.copies.is_copy", lambda _: True)
    with pytest.raises(UsageError, match="--listen-port"):
        _store(WaitOptions(wait_callbacks="1s", listen_port=0), RunFolder(tmp_path))


@pytest.mark.parametrize(
    "arguments",
    [
        ("limit", "{url}", "--pause"),
        ("approve", "{url}", "--yes"),
        ("runs", "prune", "{url}", "--keep", "1d"),
    ],
)
def test_what_needs_a_disk_says_so(machine: Machine, url: str, arguments: tuple[str, ...]) -> None:
    ended = machine(*(argument.format(url=url) for argument in arguments))
    assert (ended.code, "in an object store" in ended.err, url in ended.err) == (2, True, True)


@pytest.mark.slow
def test_a_plan_is_sent_on_another_machine(machine: Machine, tmp_path: Path) -> None:
    new = f"s3://{BUCKET}/fleet/planned"
    inventory = fleet(tmp_path / "fleet.csv", DEVICES)
    options = ["--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", new, "--sandbox"]
    assert machine("plan", inventory, *options).code == 0
    ended = machine("apply", new, "--sandbox", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["statuses"] == {"accepted": DEVICES}
    assert machine("audit", new, "--verify").code == 0


@pytest.mark.slow
def test_a_killed_run_is_resumed_on_another_machine(
    machine: Machine, settings: dict[str, str], tmp_path: Path
) -> None:
    new = f"s3://{BUCKET}/fleet/killed"
    inventory = fleet(tmp_path / "fleet.csv", 1000)
    options = ["--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", new, "--max-concurrency", "1"]
    with serving(SandboxConfig(latency=LatencyConfig(base_s=0.3))) as carrier:
        logins = keys(carrier, BATCHLIC_LEASE_S="1")
        options = [*options, "--new-ledger"]
        process = begin("assign", inventory, *options, settings=settings | logins, cwd=tmp_path)
        until(lambda: bool(books(carrier)) or process.poll() is not None)
        process.kill()
        assert end(process).code < 0
        ended = machine("resume", new, "--json", **logins)
        while ended.code == 4 and "until" in ended.err:
            ended = machine("resume", new, "--json", **logins)
        assert ended.code in {0, 3}, ended.err
        licensed = sum(bool(record["assigned"]) for record in books(carrier).values())
    statuses = json.loads(ended.out)["statuses"]
    assert sum(statuses.values()) == 1000
    assert statuses["accepted"] <= licensed <= statuses["accepted"] + statuses.get("in_doubt", 0)
    assert machine("audit", new, "--verify").code == 0


@pytest.mark.slow
def test_two_runs_begun_at_one_address_send_each_device_once(
    settings: dict[str, str], tmp_path: Path
) -> None:
    new = f"s3://{BUCKET}/fleet/twice"
    inventory = fleet(tmp_path / "fleet.csv", DEVICES)
    options = ["--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", new, "--no-ledger", "--no-report"]
    with serving(SandboxConfig(latency=LatencyConfig(base_s=0.3))) as carrier:
        own = settings | keys(carrier)
        both = [begin("assign", inventory, *options, settings=own, cwd=tmp_path) for _ in range(2)]
        ended = [end(process) for process in both]
        assigned = {record["assigned"] for record in books(carrier).values()}
    assert 0 in {one.code for one in ended}, ended
    assert {one.code for one in ended} <= {0, 4, 6}, ended
    assert assigned == {1}


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is_by_resume(machine: Machine, url: str) -> None:
    ended = machine("resume", url, "--sandbox", "--json")
    assert ended.code == 3, ended.err
    assert json.loads(ended.out)["statuses"] == {"accepted": DEVICES}
