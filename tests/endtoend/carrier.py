"""A scripted carrier beside the program, in a thread of the tests."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from tests.carrier.script import Exchange, Script, ScriptedCarrier, scripted
from tests.endtoend.program import ACCOUNT, FLEXIBLE, LIFETIME, PATIENCE

COUNTS = "/m2m/v1/accounts/subscriptions/actions/list"


@contextmanager
def answering(script: Script) -> Iterator[ScriptedCarrier]:
    """Serve logins, and every other request by `script`, until the block ends."""
    carriers: list[ScriptedCarrier] = []
    ready, done = threading.Event(), threading.Event()

    async def serve() -> None:
        async with scripted(script) as carrier:
            carriers.append(carrier)
            ready.set()
            await anyio.to_thread.run_sync(done.wait)

    thread = threading.Thread(target=anyio.run, args=(serve,))
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield carriers[0]
    finally:
        done.set()
        thread.join()


async def hang(_: Exchange) -> None:
    """Answer nothing."""
    await anyio.sleep_forever()


async def say_counts(exchange: Exchange, *, assigned: int = 0) -> None:
    """Answer a question for license counts."""
    counts = [
        {"skuNumber": sku, "licenseType": "x", "licensePurchased": 10_000}
        | {"licenseAssigned": assigned, "licenseAvailable": 10_000 - assigned}
        for sku in (FLEXIBLE, LIFETIME)
    ]
    await exchange.say(200, {"accountName": ACCOUNT, "subscriptionList": counts})
