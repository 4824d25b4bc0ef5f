"""A carrier and fleets for the tests of the Python API."""

from pathlib import Path
from typing import Any

import polars as pl

from batchlic import Settings
from tests.endtoend.program import ACCOUNT, FLEXIBLE, imei

TARGET: dict[str, Any] = {"account": ACCOUNT, "sku": FLEXIBLE, "new_ledger": True}
"""What each device gets a license of. The carrier of a module outlives the ledger of a test."""


def login(url: str, state: Path) -> Settings:
    """The login to the sandbox carrier at `url`, with its own state folder."""
    return Settings(
        base_url=url,
        client_id="sandbox",
        client_secret="sandbox",
        username="sandbox",
        password="sandbox",
        account=ACCOUNT,
        state_dir=str(state),
    )


def fleet(devices: int, *, first: int = 0) -> pl.DataFrame:
    """A frame of so many devices, from the `first` one."""
    return pl.DataFrame({"imei": [imei(number) for number in range(first, first + devices)]})
