"""A whole run that continues a trace."""

from pathlib import Path

from batchlic.sandbox.config import SandboxConfig
from tests.endtoend.program import ACCOUNT, FLEXIBLE, batchlic, fleet, keys
from tests.forking import serving
from tests.monitoring.otlp import attributes, receiving

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_a_run_continues_the_trace_of_its_scheduler_and_sends_metrics(tmp_path: Path) -> None:
    inventory = fleet(tmp_path / "fleet.csv", 30)
    options = ("--account", ACCOUNT, "--sku", FLEXIBLE, "--no-ledger", "--batch-size", "10", "--json")
    with serving(SandboxConfig()) as url, receiving() as received:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": received.url,
            "OTEL_SERVICE_NAME": "night",
            "TRACEPARENT": f"00-{TRACE}-{PARENT}-01",
        }
        ended = batchlic("assign", inventory, *options, settings=keys(url, **variables), cwd=tmp_path)
    assert (ended.code, ended.err.count("warning")) == (0, 0)
    [run], [sending] = received.named("batchlic assign"), received.named("sending")
    assert (run.trace_id.hex(), run.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(run.attributes)["devices.accepted"] == 30
    assert len(received.named("batch")) == 3
    assert sending.start_time_unix_nano <= received.named("batch")[0].start_time_unix_nano
    assert received.resource["service.name"] == "night"
    assert received.value("batchlic.requests", outcome="accepted", action="assign") == 3
