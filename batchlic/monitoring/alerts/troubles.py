"""What is wrong after a run, and which of it is news: one message for a change, not one for each night."""

import hashlib
from collections.abc import Collection, Mapping
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple, TypeAlias

import msgspec

from batchlic.chunker import DeviceStatus
from batchlic.errors import ExitCode
from batchlic.events import RunEnded


class Kind(StrEnum):
    """A kind of trouble; RECOVERED is that a trouble is over."""

    FAILURE = "failure"
    """The run was refused or stopped, or devices failed."""
    DOUBT = "doubt"
    """Devices are in doubt, or not confirmed although the job requires it."""
    REJECTS = "rejects"
    """More rows are rejected than the job tolerates."""
    RECOVERED = "recovered"


class Trouble(msgspec.Struct, frozen=True):
    """How large a trouble is, in devices or rows, and a fingerprint of its cause."""

    count: int = 0
    cause: str = ""


Troubles: TypeAlias = Mapping[Kind, Trouble]

_MANY_TIMES = 2
"""So many times as many failed devices or rejected rows as in the last message are news."""


class News(NamedTuple):
    """What a message reports: troubles that are new or worse, and those that are over."""

    kinds: frozenset[Kind]
    over: frozenset[Kind]

    def __bool__(self) -> bool:
        return bool(self.kinds or self.over)


def troubles_of(ended: RunEnded, *, max_rejects: int) -> dict[Kind, Trouble]:
    """What is wrong after a run. The job tolerates `max_rejects` rejected rows."""
    found: dict[Kind, Trouble] = {}
    failed = ended.statuses.get(DeviceStatus.FAILED, 0)
    if ended.exit_code not in {ExitCode.OK, ExitCode.INCOMPLETE}:
        found[Kind.FAILURE] = Trouble(failed, f"{ended.exit_code} {_fingerprint(ended.reason or '')}")
    elif failed:
        found[Kind.FAILURE] = Trouble(failed, "devices")
    if in_doubt := ended.statuses.get(DeviceStatus.IN_DOUBT, 0):
        found[Kind.DOUBT] = Trouble(in_doubt, "answers")
    if (rejected := sum(ended.rejected.values())) > max_rejects:
        found[Kind.REJECTS] = Trouble(rejected)
    if ended.exit_code == ExitCode.INCOMPLETE and not found:
        found[Kind.DOUBT] = Trouble(ended.statuses.get(DeviceStatus.ACCEPTED, 0), "confirmations")
    return found


def has_figures(ended: RunEnded) -> bool:
    """Whether the end of a run says anything about devices and rows."""
    return ended.exit_code in {ExitCode.OK, ExitCode.INCOMPLETE} or bool(ended.rows_read or ended.statuses)


def news(
    told: Troubles, found: Troubles, *, has_figures: bool, on: Collection[Kind]
) -> tuple[News, dict[Kind, Trouble]]:
    """What to report, given the troubles reported before; and the troubles reported after that.

    Without figures, a run says nothing about doubt and rejects: what was reported of them stays.
    """
    kinds, over, known = set[Kind](), set[Kind](), dict[Kind, Trouble]()
    for kind in on:
        before, now = told.get(kind), found.get(kind)
        if now is not None:
            is_news = before is None or _is_worse(kind, before, now)
            if is_news:
                kinds.add(kind)
            known[kind] = now if before is None or is_news else _lower(before, now)
        elif before is not None and not has_figures and kind is not Kind.FAILURE:
            known[kind] = before
        elif before is not None:
            over.add(kind)
    return News(frozenset(kinds), frozenset(over if Kind.RECOVERED in on else ())), known


def _is_worse(kind: Kind, before: Trouble, now: Trouble) -> bool:
    if now.cause != before.cause:
        return True
    if kind is Kind.DOUBT:
        return now.count > before.count  # each device in doubt needs a decision
    return now.count > before.count * _MANY_TIMES


def _lower(before: Trouble, now: Trouble) -> Trouble:
    """The trouble with the smaller count, so that its growth from there is news again."""
    return msgspec.structs.replace(now, count=min(before.count, now.count))


def _fingerprint(reason: str) -> str:
    """The same for the same reason every night; it shows nothing of the text.

    Words with digits are figures, run ids, devices or paths, which differ every night, also in their number.
    """
    words = ("#" if any(map(str.isdigit, word)) else word for word in reason.split())
    same = " ".join(word for word, _ in groupby(words))
    return hashlib.sha256(same.encode(errors="replace")).hexdigest()[:16]
