"""The carrier that a run talks to."""

from dataclasses import dataclass

from batchlic.carrier.credentials import Credentials


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go and as whom. `name` is recorded in the run: the base URL, or `sandbox`."""

    name: str
    base_url: str
    credentials: Credentials
    secrets: tuple[str, ...]
    """Texts that must not appear in any log (promise F)."""
