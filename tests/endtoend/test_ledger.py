"""`batchlic ledger` from the command line: show, export, import, and rebuild a lost ledger."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from batchlic.sandbox.config import SandboxConfig
from tests.endtoend.program import ACCOUNT, FLEXIBLE, Ended, batchlic, fleet, imei, keys, totals
from tests.forking import serving

LICENSE = ("--account", ACCOUNT, "--sku", FLEXIBLE)


@dataclass(frozen=True)
class Home:
    folder: Path
    url: str

    def run(self, *arguments: str) -> Ended:
        return batchlic(*arguments, settings=keys(self.url), cwd=self.folder)

    def counts(self, ledger: str) -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(
            self.run("ledger", "show", "--ledger", ledger, "--json").out
        )
        return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A folder in which 200 devices were assigned a license, and 50 of them unassigned."""
    folder = tmp_path_factory.mktemp("home")
    with serving(SandboxConfig()) as url:
        here = Home(folder, url)
        assert here.run("assign", str(fleet(folder / "fleet.csv", 200)), *LICENSE).code == 0
        assert here.run("unassign", str(fleet(folder / "back.csv", 50)), *LICENSE).code == 0
        yield here


@pytest.mark.slow
def test_runs_in_the_default_folder_share_a_ledger(home: Home) -> None:
    [count] = home.counts("runs/ledger.db")
    assert count == {
        "carrier": home.url,
        "account_name": ACCOUNT,
        "sku_number": FLEXIBLE,
        "assigned": 150,
        "unassigned": 50,
        "in_doubt": 0,
    }
    assert home.run("ledger", "show").out == (
        f"{ACCOUNT}  {FLEXIBLE}  150 assigned, 50 unassigned, 0 in doubt  ({home.url})\n"
    )


def test_a_device_is_shown_with_its_last_run_and_request(home: Home) -> None:
    [record] = json.loads(home.run("ledger", "show", "--device", imei(7), "--json").out)
    assert (record["imei"], record["state"], record["status"]) == (imei(7), "unassigned", "accepted")
    results = pl.read_parquet(home.folder / "runs" / record["run_id"] / "results.parquet")
    row = results.row(by_predicate=pl.col("imei") == imei(7), named=True)
    assert (record["x_request_id"], record["request_id"]) == (row["x_request_id"], row["request_id"])
    assert "has no device" in home.run("ledger", "show", "--device", imei(999)).out


@pytest.mark.slow
@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_an_exported_ledger_can_be_imported(home: Home, form: str) -> None:
    assert home.run("ledger", "export", "--to", f"all.{form}").code == 0
    assert home.run("ledger", "import", f"all.{form}", "--ledger", f"{form}.db").code == 0
    assert home.counts(f"{form}.db") == home.counts("runs/ledger.db")
    assert home.run("ledger", "export", "--to", f"again.{form}", "--ledger", f"{form}.db").code == 0
    read = pl.read_parquet if form == "parquet" else pl.read_csv
    first, again = (read(home.folder / f"{name}.{form}").sort("imei") for name in ("all", "again"))
    assert first.equals(again)


@pytest.mark.slow
def test_a_lost_ledger_is_rebuilt_from_the_run_folders(home: Home) -> None:
    fleet(home.folder / "more.csv", 210)
    ledger = ("--ledger", "r/ledger.db")
    assert home.run("assign", "more.csv", *LICENSE, "--run-dir", "r/1", *ledger, "--new-ledger").code == 0
    assert (
        home.run("assign", "more.csv", *LICENSE, "--run-dir", "r/2", *ledger).code == 0
    )  # skips all of them
    assert home.run("assign", "fleet.csv", *LICENSE, "--sandbox", "--run-dir", "r/rehearsal").code == 0
    assert home.run("rollback", "r/1", "--yes").code == 0
    rebuilt = home.run("ledger", "import", "r", "--ledger", "rebuilt.db", "--carrier", "http://127.0.0.1:1")
    assert rebuilt.code == 0
    assert rebuilt.out.count("ran against a sandbox") == 1
    assert home.counts("rebuilt.db") == home.counts("r/ledger.db")
    [count] = home.counts("rebuilt.db")
    assert (count["carrier"], count["assigned"], count["unassigned"]) == (home.url, 0, 210)
    assert (
        home.run("ledger", "import", "r", "--ledger", "r/ledger.db").out.count("in the ledger already") == 2
    )


@pytest.mark.parametrize("name", ["all.ndjson", "all.csv.gz"])
def test_rows_of_runs_are_refused_as_a_list_of_licensed_devices(home: Home, name: str) -> None:
    assert home.run("ledger", "export", "--to", "rows.parquet").code == 0
    rows = pl.read_parquet(home.folder / "rows.parquet")
    if name.endswith("gz"):
        (home.folder / name).write_bytes(gzip.compress(rows.write_csv(separator=";").encode()))
    else:
        rows.write_ndjson(home.folder / name)
    refused = home.run("ledger", "import", name, *LICENSE, "--ledger", "other.db")
    assert (refused.code, "holds results of runs" in refused.err) == (2, True)


@pytest.mark.slow
def test_each_import_of_a_list_makes_its_devices_assigned(home: Home) -> None:
    fleet(home.folder / "list.csv", 20)
    for command in ("import", "unassign", "import"):
        given = ("ledger", "import") if command == "import" else ("unassign",)
        assert home.run(*given, "list.csv", *LICENSE, "--ledger", "list.db").code == 0
    assert [count["assigned"] for count in home.counts("list.db")] == [20]


@pytest.mark.slow
def test_a_list_from_a_portal_is_read_like_an_inventory(home: Home) -> None:
    (home.folder / "portal.csv").write_text(
        "\n".join(
            ["Device IMEI;Account;SKU", *(f"{imei(n)};{ACCOUNT};{FLEXIBLE}" for n in range(5)), "12;;", ""]
        )
    )
    imported = home.run("ledger", "import", "portal.csv", "--ledger", "portal.db", "--json")
    assert (imported.code, json.loads(imported.out)["devices"]) == (3, 5)
    assert json.loads(imported.out)["rejected"] == {"bad_length": 1}
    before = totals(home.url)
    again = home.run("assign", "portal.csv", "--ledger", "portal.db", "--run-dir", "p", "--max-rejects", "1")
    assert again.code == 0
    assert totals(home.url) == before


@pytest.mark.slow
def test_a_plan_and_a_dry_run_skip_the_same_devices_as_a_run(home: Home) -> None:
    for command in (("plan", "--run-dir", "runs/look"), ("assign", "--dry-run")):
        shown = home.run(command[0], "fleet.csv", *LICENSE, *command[1:]).out
        assert "150 devices skipped according to the ledger" in shown
        assert "50 devices in 1 request:" in shown


def test_a_missing_ledger_is_exit_2_and_not_created(home: Home) -> None:
    asked = home.run("ledger", "show", "--ledger", "none.db")
    assert (asked.code, "none.db: there is no ledger here" in asked.err) == (2, True)
    assert not (home.folder / "none.db").exists()
    assert home.run("ledger", "forget", "nobody").code == 2


@pytest.mark.parametrize(
    "command",
    [
        ("show",),
        ("show", "--device", imei(1)),
        ("export", "--to", "damaged.csv"),
        ("import", "fleet.csv", *LICENSE),
        ("forget", "run"),
    ],
    ids=" ".join,
)
def test_a_damaged_ledger_is_exit_2_with_advice(home: Home, command: tuple[str, ...]) -> None:
    ledger = home.folder / "damaged.db"
    assert home.run("ledger", "import", "fleet.csv", *LICENSE, "--ledger", ledger.name).code == 0
    whole = ledger.read_bytes()
    ledger.write_bytes(whole[: len(whole) // 2])
    refused = home.run("ledger", *command, "--ledger", ledger.name)
    ledger.unlink()
    assert refused.code == 2
    assert "the ledger damaged.db is damaged" in refused.err
    assert "batchlic ledger import RUNS_DIR --ledger damaged.db" in refused.err
    assert "Traceback" not in refused.err


def test_a_run_with_a_damaged_ledger_is_exit_2_and_sends_nothing(home: Home) -> None:
    ledger = home.folder / "flipped.db"
    assert home.run("ledger", "import", "fleet.csv", *LICENSE, "--ledger", ledger.name).code == 0
    whole = bytearray(ledger.read_bytes())
    whole[whole.rindex(b"PAR1") - 50] ^= 1
    ledger.write_bytes(whole)
    before = totals(home.url)
    refused = home.run("assign", "fleet.csv", *LICENSE, "--ledger", ledger.name, "--run-dir", "flipped")
    assert (refused.code, "do not match their checksum" in refused.err) == (2, True)
    assert totals(home.url) == before
