"""Callbacks of the carrier: the listener that receives them, their store, and matching them to a run.

The listener, its server, the store and matching are imported from their modules, because each needs large
libraries that the others don't.
"""

from batchlic.callbacks.access import CARRIER_SOURCES, Access, parse_networks
from batchlic.callbacks.messages import StoredMessage
from batchlic.callbacks.registration import registration_url, url_warnings

__all__ = [
    "CARRIER_SOURCES",
    "Access",
    "StoredMessage",
    "parse_networks",
    "registration_url",
    "url_warnings",
]
