"""Remembers which request got each requestId. The requestId of another request proves nothing."""

from collections.abc import Iterable


class RequestIds:
    """The requestIds of a run, as hashes.

    100,000 requests take about 12 MB: two 64-bit hashes and a place in a dict for each. Two of a million
    different requestIds have the same hash with a probability of 1 in 30 million; the second is not believed.
    """

    def __init__(self) -> None:
        self._owners: dict[int, int] = {}

    def remember(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Load pairs of requestId and X-Request-ID. The first owner of a requestId keeps it."""
        for request_id, x_request_id in pairs:
            self.belongs(request_id, x_request_id)

    def belongs(self, request_id: str, x_request_id: str) -> bool:
        """Whether a requestId is new, or was given to the same X-Request-ID before. Remembers a new one."""
        # The carrier may write the same requestId in upper and lower case.
        owner = hash(x_request_id)
        return self._owners.setdefault(hash(request_id.lower()), owner) == owner
