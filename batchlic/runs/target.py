"""The carrier to which a run sends."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from batchlic.carrier.credentials import Credentials


@dataclass(frozen=True, slots=True)
class Target:
    """The address of a carrier and the credentials. The run records `name`: the base URL, or `sandbox`."""

    name: str
    base_url: str
    credentials: Credentials
    secrets: tuple[str, ...]
    """Texts that must not appear in any log (promise F)."""
    profile: str | None = None
    """The name of the profile that the credentials are of."""

    @property
    def host(self) -> str:
        """Host and port of the base URL, for messages."""
        return urlsplit(self.base_url).netloc
