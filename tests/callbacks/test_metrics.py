"""Metrics of the listener: what it counts, and who may see it."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchlic.callbacks.store import StoreError
from tests.callbacks.builders import PASSWORD, body
from tests.callbacks.test_listener import Kept, access


async def scrape(kept: Kept, peer: str = "127.0.0.1", **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(kept.app, client=(peer, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://listener") as http:
        return await http.get("/metrics", headers={name.replace("_", "-"): v for name, v in headers.items()})


@pytest.mark.anyio
async def test_messages_are_counted_by_what_became_of_them() -> None:
    kept = Kept()
    await kept.post(body("r1"))
    await kept.post(body("r2", status="Half done"))
    await kept.post(body("r3", password="wrong"))
    await kept.post(body("r4"), peer="192.0.2.1")
    kept.trouble = StoreError("the disk is full")
    await kept.post(body("r5"))
    answer = await scrape(kept)
    found = {
        " ".join([sample.name.removeprefix("batchlic_callbacks_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert found.pop("last_stored_timestamp_seconds") > 0
    assert found == {
        "received_total": 5,
        "stored_total": 2,
        "unjudged_total": 1,
        "refused_total 401": 1,
        "refused_total 403": 1,
        "refused_total 503": 1,
        "waiting": 0,
    }
    assert PASSWORD not in answer.text


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("peer", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("::1", {}, 200),
        ("10.1.2.3", {}, 200),
        ("::ffff:192.168.0.7", {}, 200),
        ("8.8.8.8", {}, 403),
        ("127.0.0.1", {"x_forwarded_for": "8.8.8.8"}, 403),
        ("127.0.0.1", {"x_forwarded_for": "10.0.0.1"}, 403),  # anybody can write this header
        ("127.0.0.1", {"forwarded": "for=8.8.8.8"}, 403),
        ("10.9.9.9", {"x_forwarded_for": "8.8.8.8"}, 403),
        ("10.9.9.9", {"x_forwarded_for": "10.1.2.3"}, 200),  # by the trusted proxy
    ],
)
async def test_metrics_are_for_private_networks_only(peer: str, headers: dict[str, str], status: int) -> None:
    assert (await scrape(Kept(access("10.9.9.9")), peer, **headers)).status_code == status
