"""Reads inventories in any format: valid device rows, and rejects with a reason."""

from batchlic.reader.options import IdKind, ReadOptions, Role, Source

__all__ = ["IdKind", "ReadOptions", "Role", "Source"]
