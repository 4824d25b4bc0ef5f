"""Reads inventories in any format: valid device rows, and rejects with a reason."""

from batchlic.reader.options import IdKind, ReadOptions, Source
from batchlic.reader.roles import Role

__all__ = ["IdKind", "ReadOptions", "Role", "Source"]
