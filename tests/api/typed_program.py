"""A program of a user: mypy accepts what is right, and refuses each line with `type: ignore`.

It is only checked, by mypy (test_typing.py), and never run.
"""

import os
from pathlib import Path
from typing import assert_type

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa

import batchlic


class Rows:
    """An object of another library that hands its rows over."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The stream."""
        return requested_schema


def tell(event: batchlic.RunEvent) -> None:
    """Print the name of an event."""
    print(type(event).__name__)


FRAME, PATH = pl.DataFrame(), Path("fleet.csv")
SETTINGS = batchlic.Settings(username="me", password="secret", account="0000123456-00001")


def right() -> None:
    """Calls that are right."""
    run = batchlic.assign("fleet.csv", account="0000123456-00001", sku="SIMSec-IoT")
    assert_type(run, batchlic.Run)
    assert_type(run.results, pl.LazyFrame)
    assert_type(run.status, batchlic.RunState)
    assert_type(run.exit_code, batchlic.ExitCode | None)
    assert_type(run.summary, batchlic.Summary)
    assert_type(run.report(), Path)
    assert_type(run.raise_for_status(), batchlic.Run)
    batchlic.assign([PATH, FRAME, FRAME.lazy(), Rows(), "https://example.com/fleet.csv"], on_event=tell)
    batchlic.assign(pd.DataFrame())
    batchlic.assign(duckdb.table("fleet"))
    batchlic.assign(pa.table({}))
    batchlic.assign(FRAME, canary="1%", canary_failures=2, columns={"imei": "IMEI No."}, keep=["site"])
    batchlic.unassign(Rows(), run_dir=PATH, sandbox=True, id_kind="imei", max_rate=2)
    batchlic.migrate(FRAME, from_sku="SIMSec-IoT", to_sku="TS-BUNDLE-KTO-SIMSEC-MRC", restore=True)
    batchlic.sync(FRAME.lazy(), max_removals=10, assign=False, sandbox=batchlic.EmbeddedSandbox(rate=5))
    batchlic.run(PATH, inventory=FRAME, profile="east", max_rejects=3)
    planned = batchlic.plan(FRAME, action="migrate", from_sku="a", to_sku="b", licenses=True)
    batchlic.apply(planned, settings=SETTINGS).resume()
    batchlic.resume(os.fspath(PATH), new_ledger=True)


async def right_async() -> None:
    """The same with an event loop."""
    run = await batchlic.assign_async(FRAME, sku="SIMSec-IoT")
    assert_type(run, batchlic.Run)
    assert_type(await run.resume_async(), batchlic.Run)


def wrong() -> None:
    """Calls that mypy refuses."""
    batchlic.assign()  # type: ignore[call-arg]
    batchlic.assign(42)  # type: ignore[arg-type]
    batchlic.assign({"imei": ["1"]})  # type: ignore[arg-type]
    batchlic.assign(FRAME, "0000123456-00001")  # type: ignore[call-arg]
    batchlic.assign(FRAME, acount="0000123456-00001")  # type: ignore[call-arg]
    batchlic.assign(FRAME, account=123456)  # type: ignore[arg-type]
    batchlic.assign(FRAME, max_rejects="3")  # type: ignore[arg-type]
    batchlic.assign(FRAME, id_kind="eid")  # type: ignore[arg-type]
    batchlic.assign(FRAME, columns={"serial": "IMEI"})  # type: ignore[dict-item]
    batchlic.assign(FRAME, from_sku="SIMSec-IoT")  # type: ignore[call-arg]
    batchlic.assign(FRAME, on_event=print_nothing)  # type: ignore[arg-type]
    batchlic.unassign(FRAME, consent_lifetime=True)  # type: ignore[call-arg]
    batchlic.migrate(FRAME, to_sku="SIMSec-IoT")  # type: ignore[call-arg]
    batchlic.migrate(FRAME, from_sku="a", to_sku="b", sku="c")  # type: ignore[call-arg]
    batchlic.plan(FRAME, action="retry")  # type: ignore[arg-type]
    batchlic.resume(FRAME)  # type: ignore[arg-type]
    batchlic.Settings(pasword="secret")  # type: ignore[call-arg]
    batchlic.Settings(account=123456)  # type: ignore[arg-type]
    batchlic.asign(FRAME)  # type: ignore[attr-defined]
    batchlic.assign(FRAME).results = FRAME.lazy()  # type: ignore[misc]


def print_nothing() -> None:
    """No observer: it takes no event."""


def right_requests(client: batchlic.CarrierClient) -> float | None:
    """Single requests that are right."""
    devices = [
        batchlic.LicenseDeviceList(device_ids=[batchlic.LicenseDeviceId(id="864508030109877", kind="IMEI")])
    ]
    body = batchlic.AssignLicenseRequest(account_name="123", devices=devices, sku_number="SIMSec-IoT")
    try:
        answer = client.assign_license_to_devices(body, x_request_id="1-001")
    except batchlic.TooManyRequestsError as error:
        assert_type(error.response, batchlic.ApiResponse[str] | None)
        return error.retry_after
    assert_type(answer, batchlic.ApiResponse[batchlic.SecuritySuccessResult])
    assert_type(client.unassign_license_to_devices("1-001", body).result.request_id, str)
    batchlic.CarrierClient.from_settings(SETTINGS, consent_lifetime=True).close()
    return None


async def right_async_requests() -> None:
    """The same with an event loop."""
    async with batchlic.AsyncCarrierClient(access_token="a", session_token="b", timeout=5) as client:
        assert_type((await client.unassign_license_to_devices("1-001")).status_code, int)


def wrong_requests(client: batchlic.CarrierClient, body: batchlic.AssignLicenseRequest) -> None:
    """Single requests that are wrong."""
    client.assign_license_to_devices({"accountName": "123"})  # type: ignore[arg-type]
    client.unassign_license_to_devices(body)  # type: ignore[arg-type]
    print(client.assign_license_to_devices(body).result.requestId)  # type: ignore[attr-defined]
    batchlic.CarrierClient("key")  # type: ignore[call-arg]
