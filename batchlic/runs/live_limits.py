"""Limits of a session at work that somebody changes from another terminal.

The session publishes its limits in a file. A command that changes them writes a request beside it, which
names the session. So a request never holds for a later session: each one begins with the limits of its job.
"""

import errno
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, Protocol, TypeVar

import anyio
import msgspec

from batchlic.atomic import explain_read_errors, replacing
from batchlic.errors import BatchlicError, NoAccess, RefusedToStart, StoppedEarly, UsageError
from batchlic.events import BoundsChanged, EventStream, Warned
from batchlic.figures import time_in_files
from batchlic.job import Limits, as_share
from batchlic.pool.limiter.limiters import Limiters
from batchlic.runs.finalize import now
from batchlic.runs.folder import RunFolder, missing_folder
from batchlic.runs.user import user_name

LOOK_INTERVAL_S = 0.5
"""Seconds between two looks of a session for a request."""
PATIENCE_S = 5.0
"""Seconds that a command waits for a session to take its request up."""
_AGAIN_S = 0.05
"""Seconds between two looks of that command."""
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
_LARGEST = 10_000
"""Bytes of a file that is read at all."""

_T = TypeVar("_T")


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a session that can be changed. `max_rate` is in requests per second; None: no bound."""

    max_rate: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None
    max_concurrency: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    headroom: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,2}(\.[0-9]{1,9})?%$")]
    """Share of the carrier's limit that is left to others, as in a job file."""
    is_paused: bool = False


class LimitsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The limits that a session is to have. `at` is ISO 8601 in UTC."""

    session: str
    id: str
    by: str
    at: str
    bounds: Bounds


class LimitsInForce(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a session at work."""

    session: str
    """Its process, as it stands in the lock of the folder."""
    began_with: Bounds
    fixed_rate: float | None
    bounds: Bounds
    changed_by: str | None = None
    """User of the operating system who changed them last; None if nobody did."""
    changed_at: str | None = None
    """When; ISO 8601 in UTC."""
    request: str | None = None
    scope: Literal["login", "account"] = "login"
    """What the rate, the headroom and the requests in flight are for. If it is an account, each one has
    them, and `max_concurrency` bounds the requests in flight of all accounts together, too."""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What to change; None: as it is. `is_reset`: begin from the limits that the session began with."""

    max_rate: float | None = None
    max_concurrency: int | None = None
    headroom: str | None = None
    is_paused: bool | None = None
    is_reset: bool = False

    def applied(self, limits: LimitsInForce) -> Bounds:
        """The limits with the changes. Raises UsageError for changes that can't take effect."""
        began_with = limits.began_with
        if self.max_concurrency is not None and self.max_concurrency > began_with.max_concurrency:
            raise UsageError(
                f"--max-concurrency {self.max_concurrency}: the session began with "
                f"{began_with.max_concurrency}, which is the most that it can have"
            )
        if self.headroom is not None and limits.fixed_rate is not None:
            raise UsageError("--headroom: the session has a fixed rate, so it finds no limit")
        if self.headroom is not None and as_share(self.headroom) >= 1:
            raise UsageError(f"--headroom {self.headroom}: leaves nothing to the run; pause it with --pause")
        before = began_with if self.is_reset else limits.bounds
        given = {
            name: value for name in Bounds.__struct_fields__ if (value := getattr(self, name)) is not None
        }
        return msgspec.structs.replace(before, **given)


# -- the session ----------------------------------------------------------------------------------------


class Limited(Protocol):
    """Sends requests under limits that can be changed."""

    def change(self, bounds: Bounds) -> None:
        """Have these limits from now on."""


class LimitedHere:
    """Sends by the limiters of this process, which has a share of the rate and of the requests in flight."""

    def __init__(self, limiters: Limiters, *, rate_sharers: int = 1, sharers: int = 1) -> None:
        self._limiters = limiters
        self._rate_sharers = rate_sharers
        self._sharers = sharers

    def change(self, bounds: Bounds) -> None:
        """Have the share of these limits from now on."""
        self._limiters.set_bounds(
            max_rate=bounds.max_rate and bounds.max_rate / self._rate_sharers,
            max_concurrency=share_of(bounds.max_concurrency, self._sharers),
            headroom=as_share(bounds.headroom),
        )
        if bounds.is_paused:
            self._limiters.stop()
        else:
            self._limiters.go_on()


def share_of(max_concurrency: int, sharers: int) -> int:
    """The requests in flight that each of some processes may have: at least one."""
    return max(1, max_concurrency // sharers)


class LiveLimits:
    """Applies requests to the limiters of a session; the caller has locked the folder.

    A file that can't be read or written never stops the session: it goes on with the limits that it has.
    """

    def __init__(self, folder: RunFolder, limits: Limits, limited: Limited, events: EventStream) -> None:
        self._folder = folder
        self._limited = limited
        self._events = events
        self._seen: tuple[int, int, int] | None = None
        bounds = Bounds(
            max_rate=limits.max_rate, max_concurrency=limits.max_concurrency, headroom=limits.headroom
        )
        self._in_force = LimitsInForce(
            session=str(folder.process),
            began_with=bounds,
            fixed_rate=limits.fixed_rate,
            bounds=bounds,
            scope=limits.scope,
        )

    async def watch(self) -> None:
        """Publish the limits, and apply requests, until cancelled."""
        with suppress(OSError):
            self._folder.limits_request.unlink(missing_ok=True)  # of an earlier session
        self._publish()
        try:
            while True:
                await anyio.sleep(LOOK_INTERVAL_S)
                self.look()
        finally:
            self._remove()

    def look(self) -> None:
        """Apply the request that is there, if it is new and names this session."""
        try:
            request = self._new_request()
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is damaged"
            message = f"{self._folder.limits_request}: this request to change the limits is ignored: {reason}"
            self._events.emit(Warned(message=message))
            return
        if request is None or request.session != self._in_force.session:
            return
        self._apply(request.bounds)
        self._in_force = msgspec.structs.replace(
            self._in_force,
            bounds=request.bounds,
            changed_by=request.by,
            changed_at=request.at,
            request=request.id,
        )
        self._events.emit(BoundsChanged(by=request.by, **msgspec.structs.asdict(request.bounds)))
        self._publish()

    def _new_request(self) -> LimitsRequest | None:
        try:
            found = self._folder.limits_request.stat()
        except FileNotFoundError:
            return None
        version = found.st_ino, found.st_mtime_ns, found.st_size
        if version == self._seen:
            return None
        self._seen = version
        return _read(self._folder.limits_request, LimitsRequest)

    def _apply(self, bounds: Bounds) -> None:
        most = min(bounds.max_concurrency, self._in_force.began_with.max_concurrency)
        self._limited.change(msgspec.structs.replace(bounds, max_concurrency=most))

    def _remove(self) -> None:
        """Remove the files, unless they are those of a session that has taken over meanwhile."""
        with suppress(OSError, ValueError):
            if _read(self._folder.limits, LimitsInForce).session == self._in_force.session:
                self._folder.limits.unlink()
                self._folder.limits_request.unlink(missing_ok=True)

    def _publish(self) -> None:
        try:
            _write(self._folder.limits, self._in_force)
        except BatchlicError as error:
            message = f"batchlic limit can't change the limits of this session: {error}"
            self._events.emit(Warned(message=message))


# -- the other terminal ---------------------------------------------------------------------------------


def limits_in_force(folder: RunFolder) -> LimitsInForce | None:
    """The limits of the session at work; None if there is none, or if its limits can't be read."""
    process = folder.process
    with suppress(OSError, ValueError):
        limits = _read(folder.limits, LimitsInForce)
        return limits if process is not None and limits.session == str(process) else None
    return None


def change_limits(folder: RunFolder, changes: Changes) -> LimitsInForce:
    """Change the limits of the session at work, and return them once they are in force.

    Raises RunFolderError or NoAccess for a folder that is missing or closed to this user, RefusedToStart if
    no session is at work, and UsageError as `Changes.applied` does. Raises StoppedEarly if the session does
    not apply the request in time.
    """
    with explain_read_errors(folder.path):
        if not folder.path.is_dir():
            raise missing_folder(folder.path)
        os.listdir(folder.path)  # noqa: PTH208 - only to know whether it may be read
    limits = _limits_of_session(folder)
    request = LimitsRequest(
        session=limits.session,
        id=secrets.token_hex(8),
        by=user_name(),
        at=time_in_files(now()),
        bounds=changes.applied(limits),
    )
    try:
        _write(folder.limits_request, request)
    except StoppedEarly as error:
        if getattr(error.__cause__, "errno", None) not in _NOT_ALLOWED:
            raise
        raise NoAccess(
            f"{folder.path}: you may not write there, so you can't change the limits of this run"
        ) from error
    return _taken_up(folder, request)


def _limits_of_session(folder: RunFolder) -> LimitsInForce:
    process = folder.process
    if process is None:
        raise RefusedToStart(
            f"{folder.path}: no session is at work on this run, so there are no limits to change. A session "
            f"begins with the limits of its job: batchlic resume {folder.argument}"
        )
    with explain_read_errors(folder.limits), suppress(FileNotFoundError, ValueError):
        limits = _read(folder.limits, LimitsInForce)
        if limits.session == str(process):
            return limits
    raise RefusedToStart(
        f"{folder.path}: {process} uses this run, but does not send now (perhaps it plans, or writes files). "
        "Nothing was changed; run the command again"
    )


def _taken_up(folder: RunFolder, request: LimitsRequest) -> LimitsInForce:
    ends_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends_at:
        limits = limits_in_force(folder)
        if limits is not None and limits.request == request.id:
            return limits
        if str(folder.process) != request.session:
            raise RefusedToStart(f"{folder.path}: the session ended before its limits were changed")
        time.sleep(_AGAIN_S)
    raise StoppedEarly(
        f"{folder.path}: the session has not applied the request within {PATIENCE_S:.0f} s. It does so as "
        "soon as it goes on; batchlic status shows the limits in force"
    )


# -- files ----------------------------------------------------------------------------------------------


def _read(path: Path, kind: type[_T]) -> _T:
    """The content of a file. Raises OSError, or ValueError if it is damaged."""
    with path.open("rb") as file:
        content = file.read(_LARGEST)
    return msgspec.json.decode(content, type=kind)


def _write(path: Path, content: LimitsRequest | LimitsInForce) -> None:
    """Write a file, for the owner of its folder, although root may write it."""
    with replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.encode(content))
        if os.geteuid() == 0:
            owner = path.parent.stat()
            os.chown(temporary, owner.st_uid, owner.st_gid)
