"""Three accounts with different hidden limits, over TCP: each account is sent at its own pace."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchlic.sandbox.config import LimitConfig, LimitScope, SandboxConfig
from tests.endtoend.program import FLEXIBLE, batchlic, books, imei, keys, statuses, summary
from tests.forking import serving

pytestmark = pytest.mark.slow

RATES = {"0000123456-00001": 5.0, "0000123456-00002": 20.0, "0000123456-00003": 80.0}
DEVICES = {"0000123456-00001": 40, "0000123456-00002": 120, "0000123456-00003": 400}


def inventory(folder: Path) -> Path:
    """Devices of three accounts, the slowest one first."""
    accounts = [account for account, devices in DEVICES.items() for _ in range(devices)]
    path = folder / "fleet.csv"
    pl.DataFrame({"IMEI": map(imei, range(len(accounts))), "account": accounts}).write_csv(path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, dict[str, Any]]]]:
    """The folder of a run with a limiter for each account, and the carrier's books after it."""
    home = tmp_path_factory.mktemp("accounts")
    limits = LimitConfig(scope=LimitScope.ACCOUNT, account_rates=RATES, burst=5)
    with serving(SandboxConfig(limits=limits)) as url:
        options = ("--sku", FLEXIBLE, "--run-dir", "run", "--batch-size", "1", "--limit-scope", "account")
        ended = batchlic("assign", inventory(home), *options, settings=keys(url), cwd=home)
        assert ended.code == 0, ended.err
        yield home / "run", books(url)


def sent_at(folder: Path) -> dict[str, list[int]]:
    """When each account's requests were accepted, in microseconds, by the audit."""
    audit = pl.read_parquet(folder / "audit.parquet").filter(pl.col("outcome") == "accepted")
    batches = pl.read_parquet(folder / "plan.parquet").select("batch_id", "account_name").unique()
    joined = audit.join(batches, on="batch_id").select("account_name", pl.col("started_at").cast(pl.Int64))
    return {
        account: sorted(joined.filter(pl.col("account_name") == account)["started_at"]) for account in RATES
    }


def test_every_device_of_all_accounts_has_its_license(run: tuple[Path, dict[str, Any]]) -> None:
    folder, carrier = run
    assert set(statuses(folder).values()) == {"accepted"}
    assert len(carrier) == summary(folder)["planned"] == sum(DEVICES.values())


def test_the_accounts_are_sent_side_by_side(run: tuple[Path, dict[str, Any]]) -> None:
    first_half = {account: times[len(times) // 2] for account, times in sent_at(run[0]).items()}
    began = {account: times[0] for account, times in sent_at(run[0]).items()}
    assert max(began.values()) < min(first_half.values())


def test_a_limit_is_logged_with_its_account(run: tuple[Path, dict[str, Any]]) -> None:
    lines = map(json.loads, (run[0] / "run.log").read_text().splitlines())
    named = {line["account"] for line in lines if line["event"] == "limiter"}
    assert named <= set(RATES)
    assert "0000123456-00001" in named
