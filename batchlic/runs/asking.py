"""How an operation asks the operator for confirmation."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from batchlic.carrier.catalog import LicenseType


class Ask(Protocol):
    """Asks a question, and returns if the operator confirms it; otherwise raises RefusedToStart."""

    def __call__(self, question: str, /, *, typed: str | None = None) -> None:
        """Ask for a yes, or for the text `typed`, if it is given."""


def ask_about_licenses(
    ask: Ask, question: str, assigned: Iterable[str], skus: Mapping[str, LicenseType]
) -> None:
    """Ask for a yes; where Lifetime licenses would be assigned, for the name of each such SKU.

    `assigned` are the SKUs that devices would get. `skus` has the type of every SKU.
    """
    lifetime = sorted({sku for sku in assigned if skus[sku] is LicenseType.LIFETIME})
    if not lifetime:
        ask(question)
    for sku in lifetime:
        ask(f"{question} A license of {sku} is for the device's lifetime: this cannot be undone.", typed=sku)
