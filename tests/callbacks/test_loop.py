"""The whole loop over TCP: assign, callbacks, the listener killed in between, and the books.

`make test-callbacks` runs it with 100,000 devices (LOOP_DEVICES).
"""

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from batchlic.sandbox.config import CallbackConfig, Fault, SandboxConfig
from tests.callbacks.builders import ACCOUNT, PASSWORD, SETTINGS, ListenerProcess, body, fleet
from tests.endtoend.program import Ended, batchlic, keys, until
from tests.forking import serving
from tests.loopback import NO_CERTIFICATES

pytestmark = pytest.mark.slow

FLEXIBLE, LIFETIME = "SIMSec-IoT", "SIMSec-IoT-Lt"
DEVICES = int(os.environ.get("LOOP_DEVICES", "1000"))
BATCH_SIZE = min(100, DEVICES // 50)
"""Fifty requests or more, so that some answers are lost."""


class Place:
    """One machine: sandbox, listener, run folder, and the commands of an operator."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self.folder = folder
        self.base_url = base_url
        self.store = str(folder / "store.db")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def listen(self) -> ListenerProcess:
        return ListenerProcess(self.store, "--port", str(self.port))

    def batchlic(self, *arguments: str) -> Ended:
        return batchlic(*arguments, settings=keys(self.base_url, **SETTINGS), cwd=self.folder)

    def assign(self, sku: str) -> Ended:
        fleet(self.folder / "fleet.csv", DEVICES)
        options = ["--account", ACCOUNT, "--sku", sku, "--consent-lifetime", "--run-dir", "run", "--json"]
        return self.batchlic("assign", "fleet.csv", *options, "--batch-size", str(BATCH_SIZE))

    def reconcile(self) -> Ended:
        return self.batchlic("reconcile", "run", "--store", self.store, "--json")

    def totals(self) -> dict[str, Any]:
        url = self.base_url.replace("/api", "/sandbox/totals")
        return dict(httpx.get(url, trust_env=False, verify=NO_CERTIFICATES, timeout=60).json())

    def wait_for(self, acknowledged: int) -> None:
        until(lambda: self.totals()["callbacks"].get("acknowledged", 0) >= acknowledged)

    def wait_for_all(self) -> None:
        until(lambda: not self.totals()["callbacks_pending"])

    def compare(self) -> set[tuple[str, bool]]:
        """Each status in the results, with whether the books show a license for such a device."""
        url = self.base_url.replace("/api", "/sandbox/books")
        books = pl.read_ndjson(httpx.get(url, trust_env=False, verify=NO_CERTIFICATES, timeout=300).content)
        licensed = books.select("imei", licensed=pl.col("sku_number").is_not_null())
        results = pl.read_parquet(self.folder / "run" / "results.parquet")
        both = results.join(licensed, on="imei", how="left", validate="1:1")
        return set(both.select("status", "licensed").unique().iter_rows())


@pytest.mark.parametrize("sku", [FLEXIBLE, LIFETIME])
def test_devices_end_as_the_books_say_despite_kills_and_faults(tmp_path: Path, sku: str) -> None:
    config = SandboxConfig(
        callbacks=CallbackConfig(
            delay_s=0.2,
            jitter_s=2.0,
            early_share=0.2,
            repeat_share=0.1,
            failure_share=0.05,
            retry_s=10.0,  # the listener is back before the third retry, on a busy machine, too
        ),
        faults={Fault.RESET_AFTER: 0.1, Fault.ERROR_504_AFTER: 0.1},
        seed=5,
    )
    with serving(config) as base_url:
        place = Place(tmp_path, base_url)
        listener = place.listen()
        registered = place.batchlic("callbacks", "register", "--account", ACCOUNT, "--url", listener.url)
        assert registered.code == 0, registered.err
        assert "does not call port" in registered.err
        assert PASSWORD not in registered.err
        listed = place.batchlic("callbacks", "list", "--account", ACCOUNT, "--json")
        assert json.loads(listed.out)[0]["url"].endswith(ACCOUNT)
        assert PASSWORD not in listed.out
        statuses = json.loads(place.assign(sku).out)["statuses"]
        assert (statuses.get("in_doubt", 0) > 0) == (sku == LIFETIME)  # a flexible one is asked for again
        place.wait_for(DEVICES // 4)
        listener.end(signal.SIGKILL)
        listener = place.listen()
        place.wait_for_all()
        reconciled = place.reconcile()
        assert "given-up" not in place.totals()["callbacks"]
        hostile = [
            (body("forged", "864508000000004", username="x"), 401),
            (body("forged", "864508000000004", status="Failed"), 200),
        ]
        for message, answer in hostile:
            assert (
                httpx.post(listener.url, json=message, trust_env=False, verify=NO_CERTIFICATES).status_code
                == answer
            )
        again = place.reconcile()
        listener.end()
        assert place.compare() == {("confirmed", True), ("failed", False)}
    assert sum(json.loads(again.out)["statuses"].values()) == DEVICES
    assert json.loads(again.out) == json.loads(reconciled.out), again.err
    assert reconciled.code == again.code == 3
