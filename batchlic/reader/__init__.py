"""Inventories in any format, to clean and validated device rows and to rejects with a reason."""

from batchlic.reader.options import IdKind, ReadOptions, Role, Source

__all__ = ["IdKind", "ReadOptions", "Role", "Source"]
