"""Reports to render: a finished run of one device, with whatever a test changes."""

from typing import Any

from batchlic.chunker import DeviceStatus
from batchlic.writer.report.data import Doubts, Report
from batchlic.writer.summary import InventoryRows, Summary

NO_DOUBT = Doubts(devices=0, requests=0, earlier=0, shown=[])
AT = "2026-11-29T17:00:00.000000Z"


def summary(**changes: Any) -> Summary:  # noqa: ANN401 - any field of a summary
    fields: dict[str, Any] = {
        "run_id": "run-1",
        "job": "onboard",
        "action": "assign",
        "carrier": "https://thingspace.verizon.com/api",
        "sources": [InventoryRows("fleet.csv", 1)],
        "rows_read": 1,
        "rejected": {},
        "planned": 1,
        "statuses": {DeviceStatus.ACCEPTED: 1},
        "batches": 1,
        "requests": {"total": 1, "accepted": 1, "throttled": 0},
        "started_at": AT,
        "finished_at": AT,
        "devices_per_second": 10.0,
        "exit_code": 0,
    }
    return Summary(**fields | changes)


def report(of: Summary | None = None, **changes: Any) -> Report:  # noqa: ANN401 - any field of a report
    fields: dict[str, Any] = {
        "made_at": AT,
        "run_dir": "/runs/run-1",
        "is_at_work": False,
        "summary": of or summary(),
        "from_sku": None,
        "to_sku": None,
        "max_rejects": 0,
        "steps": [],
        "rejects": [],
        "failures": [],
        "other_failures": 0,
        "licenses": [],
        "other_licenses": 0,
        "doubts": NO_DOUBT,
        "settled_by": {},
        "timeline": None,
        "latency": None,
        "attempts": [],
        "sessions": [],
        "links": [],
    }
    return Report(**fields | changes)
