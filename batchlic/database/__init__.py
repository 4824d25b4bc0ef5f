"""Databases: SQLite files, the PostgreSQL database that machines share, and errors that say what to do."""

from batchlic.database.explained import Damage, explain_database_errors, first_line, is_of_the_system
from batchlic.database.files import (
    PATIENCE,
    FileFormat,
    check_format,
    create_or_check,
    is_database,
    read_at_rest,
    snapshot,
    sqlite,
    write_format,
)

__all__ = [
    "PATIENCE",
    "Damage",
    "FileFormat",
    "check_format",
    "create_or_check",
    "explain_database_errors",
    "first_line",
    "is_database",
    "is_of_the_system",
    "read_at_rest",
    "snapshot",
    "sqlite",
    "write_format",
]
