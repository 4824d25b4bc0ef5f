"""Parses the options of `batchlic sandbox` into values for SandboxConfig."""

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from batchlic.carrier.catalog import SKUS
from batchlic.errors import UsageError
from batchlic.sandbox.config import Fault, Poison

N = TypeVar("N", int, float)

_IDENTIFIER = re.compile(r"[0-9]{3,32}")


def parse_fault(text: str) -> tuple[Fault, float]:
    """Parse `reset-after=0.01`: a fault and the share of license requests that meet it. Raises UsageError."""
    name, _, rate = text.partition("=")
    if name not in set(Fault):
        raise UsageError(f"The sandbox has no fault {name!r}. {_suggest(name, list(Fault))}")
    share = _number(float, rate, f"--fault {text}", "NAME=RATE, such as reset-after=0.01")
    if not 0 <= share <= 1:
        raise UsageError(f"--fault {text}: the rate must be a share of the requests, 0 to 1.")
    return Fault(name), share


def parse_licenses(texts: Iterable[str]) -> dict[str, int]:
    """Parse license counts: `5000` for each known SKU, `SIMSec-IoT=5000` for one SKU. Later texts win.

    If only single SKUs are given, accounts have no licenses of other SKUs. Raises UsageError.
    """
    licenses: dict[str, int] = {}
    for text in texts:
        sku, _, count = text.rpartition("=")
        if sku and not 3 <= len(sku) <= 32:
            raise UsageError(f"--licenses {text}: a SKU must have 3 to 32 characters.")
        number = _number(int, count, f"--licenses {text}", "a count, or SKU=COUNT")
        licenses |= {sku: number} if sku else dict.fromkeys(SKUS, number)
    return licenses


def parse_account_rate(text: str) -> tuple[str, float]:
    """Parse `0000123456-00001=20`: an account and its requests per second. Raises UsageError."""
    account, _, rate = text.rpartition("=")
    option, expected = f"--account-rate {text}", "ACCOUNT=REQUESTS, such as 0000123456-00001=20"
    if not account:
        raise UsageError(f"{option}: expected {expected}.")
    return account, _number(float, rate, option, expected)


def parse_change(text: str) -> tuple[float, float]:
    """Parse `30=0.5`: half the limits from 30 seconds after the first license request. Raises UsageError."""
    at, _, factor = text.partition("=")
    option, expected = f"--change {text}", "SECONDS=FACTOR, such as 30=0.5"
    return _number(float, at, option, expected), _number(float, factor, option, expected)


def read_poison_file(path: Path) -> tuple[Poison, ...]:
    """Read poisoned devices, one per line: `identifier[,error code[,named|silent]]`, with # comments.

    Raises UsageError that names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The poison file {path} can't be read: {error}.") from None
    stripped = ((number, line.partition("#")[0].strip()) for number, line in enumerate(lines, start=1))
    return tuple(_poison(line, f"{path}, line {number}") for number, line in stripped if line)


def _poison(line: str, where: str) -> Poison:
    identifier, *rest = [part.strip() for part in line.split(",")]
    if not _IDENTIFIER.fullmatch(identifier):
        raise UsageError(f"{where}: {identifier!r} is not an identifier of 3 to 32 digits.")
    if len(rest) > 2 or (len(rest) == 2 and rest[1] not in {"named", "silent"}):
        raise UsageError(f"{where}: expected identifier[,error code[,named|silent]].")
    code = rest[0] if rest and rest[0] else Poison(identifier=identifier).error_code
    return Poison(identifier=identifier, error_code=code, named=rest[1:] != ["silent"])


def _number(kind: Callable[[str], N], text: str, option: str, expected: str) -> N:
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{option}: expected {expected}.") from None


def _suggest(name: str, names: list[str]) -> str:
    close = get_close_matches(name, names, n=1)
    return f"Did you mean {close[0]}?" if close else f"Faults are: {', '.join(names)}."
