"""Tells the files of a folder or an archive that are no inventories, such as checksums and notes."""

import re
from pathlib import Path, PurePosixPath

_LEFT_OUT = re.compile(
    r"""
    [._~].* | .*~                                    # hidden, _SUCCESS, ~$fleet.xlsx (a lock), backups
    | (readme|licen[cs]e|copying|notice|changelog)(\.(txt|html?|pdf|docx?))? | .*\.(md|rst|log)
    | .*\.(md5|sha1|sha224|sha256|sha384|sha512|crc|crc32|sfv|asc|sig|sum|checksum) | (md5|sha\d+)sums?
    | .*\.(db|sqlite|sqlite3)(-wal|-shm|-journal|\.lock)? | .*\.duckdb(\.wal)?
    | .*\.(lock|tmp|part|partial|crdownload|bak|swp)
    | thumbs\.db | desktop\.ini
    """,
    re.IGNORECASE | re.VERBOSE,
)


def is_left_out(path: str) -> bool:
    """Whether a file is no inventory, by its name and those of its folders."""
    *folders, name = PurePosixPath(path.replace("\\", "/")).parts or ("",)
    return _LEFT_OUT.fullmatch(name) is not None or any(
        folder.startswith((".", "_")) and folder not in {".", ".."} for folder in folders
    )


def is_run_folder(folder: Path) -> bool:
    """Whether a folder holds the plan and the rejects of a run, which are no inventories."""
    return (folder / "plan.parquet").is_file() and (folder / "rejects.parquet").is_file()
