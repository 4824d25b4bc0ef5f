"""A carrier and fleets for the tests of the Python API."""

from pathlib import Path

import polars as pl

from batchlic import Settings
from tests.endtoend.program import ACCOUNT, FLEXIBLE, imei

TARGET = {"account": ACCOUNT, "sku": FLEXIBLE}
"""What each device gets a license of."""


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
