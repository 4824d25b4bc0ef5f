"""The pages as an ASGI app. See docs/how-to/pages.md."""

import os
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from math import ceil
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO
from urllib.parse import parse_qs

import anyio
import anyio.to_thread
from jinja2 import Environment
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from batchlic.aliases import shown
from batchlic.chunker import DeviceStatus
from batchlic.errors import BatchlicError
from batchlic.figures import time_in_files
from batchlic.monitoring.instruments import NO_METRICS
from batchlic.runs.export import export
from batchlic.runs.listing import UNKNOWN, ListedRun, RunState
from batchlic.web import charts, devices
from batchlic.web.access import SESSION_S, FailureLimit, Hosts, Sessions, Token
from batchlic.web.catalog import Catalog, Entry
from batchlic.web.guard import SESSION_COOKIE, Guard, address_of, has_session
from batchlic.web.live import LiveMessage, LiveRuns, Streams, message
from batchlic.web.reports import Reports
from batchlic.writer.export import NO_SHEETS, Format, Selection, can_write_sheets
from batchlic.writer.report.page import environment, style

MAX_ROWS = 200
"""Most runs on one page of the list."""
MAX_JOBS = 20
"""Most jobs above it."""
MAX_FORM = 4096
"""Bytes of a login."""

_LOCAL = re.compile(r"/(?![/\\])[\w./?=&%+~-]*")
_DOWNLOADS = {"rejects": Selection.REJECTS, "failed": Selection.FAILED, "in_doubt": Selection.IN_DOUBT}
_FORMATS = {
    Format.CSV: "text/csv; charset=utf-8",
    Format.XLSX: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
_SINCE = {"1": "last day", "7": "last 7 days", "30": "last 30 days", "": "any time"}
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PageOptions:
    """What the pages show, and to whom. Without a token, they are for everyone who reaches them."""

    folder: Path
    ledger: Path | str
    token: str | None = None
    host: str = "127.0.0.1"
    """The address that the server listens on."""
    public_hosts: tuple[str, ...] = ()
    is_tls: bool = False


def create_app(options: PageOptions, *, is_stopping: Callable[[], bool] = lambda: False) -> ASGIApp:
    """The app. Raises UsageError if there is no such folder, and NoAccess if it can't be opened.

    `is_stopping` ends streams.
    """
    return _Pages(options, is_stopping).app


class _Pages:
    """The endpoints, and what they share."""

    def __init__(self, options: PageOptions, is_stopping: Callable[[], bool]) -> None:
        self._options = options
        self._token = None if options.token is None else Token(options.token)
        self._sessions = Sessions()
        self._failures = FailureLimit()
        self._catalog = Catalog(options.folder)
        self._reports = Reports()
        self._live = LiveRuns()
        self._streams = Streams(is_stopping)
        self._heavy = anyio.CapacityLimiter(2)
        routes = [
            Route("/", self._list),
            Route("/live", self._list_live),
            Route("/runs/{key}", self._run),
            Route("/runs/{key}/live", self._run_live),
            Route("/runs/{key}/{what}.{form}", self._download),
            Route("/device", self._device),
            Route("/login", self._show_login, methods=["GET"]),
            Route("/login", self._log_in, methods=["POST"]),
            Route("/logout", self._log_out, methods=["POST"]),
            Route("/healthz", _healthz),
            Route("/metrics", self._metrics),
            Route("/static/{name}", _static),
        ]
        # The guard is around everything, so that also the answer to a bug has its headers.
        self.app = Guard(
            Starlette(
                routes=routes,
                exception_handlers={HTTPException: self._http_error, BatchlicError: self._error},
            ),
            token=self._token,
            sessions=self._sessions,
            failures=self._failures,
            hosts=Hosts(options.host, options.public_hosts),
        )

    # -- the list ---------------------------------------------------------------------------------------

    async def _list(self, request: Request) -> Response:
        entries = await anyio.to_thread.run_sync(self._catalog.entries)
        jobs = await anyio.to_thread.run_sync(self._catalog.jobs)
        asked = {name: request.query_params.get(name, "") for name in ("job", "show", "since")}
        chosen = [entry for entry in entries if _is_chosen(entry.run, asked)]
        page = _number(request.query_params.get("page", "1"))
        drawn = [(job, charts.sparkline(job)) for job in jobs[:MAX_JOBS]]
        pages = max(1, -(-len(chosen) // MAX_ROWS))
        page = min(page, pages)
        return self._page(
            request,
            "runs.html",
            folder=str(self._options.folder),
            seen=_fingerprint(entries),
            jobs=[(job, bars, charts.in_words(bars)) for job, bars in drawn],
            names=sorted({entry.run.job for entry in entries if entry.run.job}),
            entries=chosen[(page - 1) * MAX_ROWS : page * MAX_ROWS],
            count=len(chosen),
            total=len(entries),
            working=sum(entry.run.state is RunState.AT_WORK for entry in entries),
            asked=asked,
            since=_SINCE,
            page=page,
            pages=pages,
        )

    async def _list_live(self, request: Request) -> Response:
        seen = request.query_params.get("seen", "")

        async def read() -> LiveMessage | None:
            entries = await anyio.to_thread.run_sync(self._catalog.entries)
            if _fingerprint(entries) != seen:
                return None
            return LiveMessage(
                text={
                    f"done-{entry.key}": _share_done(entry.run)
                    for entry in entries
                    if entry.run.state is RunState.AT_WORK
                }
            )

        return self._stream(request, read)

    # -- one run ----------------------------------------------------------------------------------------

    async def _run(self, request: Request) -> Response:
        entry = await self._entry(request)
        run = entry.run
        downloads = _downloads(run)
        if run.state is RunState.AT_WORK:
            figures = await self._live.figures(entry)
            return self._page(
                request,
                "at_work.html",
                entry=entry,
                figures=figures,
                live=message(figures),
                flow=charts.FLOW,
                downloads=downloads,
            )
        problem, sections = run.problem if run.state in UNKNOWN else None, None
        if problem is None and run.state is not RunState.PLANNED:
            try:
                sections = await anyio.to_thread.run_sync(self._reports.sections, entry, limiter=self._heavy)
            except BatchlicError as error:
                problem = str(error)
        if sections is not None:
            return self._page(request, "report.html", entry=entry, sections=sections, downloads=downloads)
        return self._page(request, "run.html", entry=entry, problem=problem, downloads=downloads)

    async def _run_live(self, request: Request) -> Response:
        entry = await self._entry(request)

        async def read() -> LiveMessage | None:
            figures = await self._live.figures(entry)
            if figures is None:  # planned or being planned
                found = await anyio.to_thread.run_sync(self._catalog.find, entry.key)
                is_at_work = found is not None and found.run.state is RunState.AT_WORK
            else:
                is_at_work = figures.process is not None
            return message(figures) if is_at_work else None

        return self._stream(request, read)

    def _stream(self, request: Request, read: Callable[[], Awaitable[LiveMessage | None]]) -> Response:
        headers = {"X-Accel-Buffering": "no"}  # nginx passes each event on at once
        if request.method == "HEAD":
            return Response(media_type="text/event-stream", headers=headers)
        if self._streams.is_full:
            return PlainTextResponse("too many pages are open\n", 503, headers={"Retry-After": "30"})
        events = self._streams.events(read, may_go_on=lambda: self._is_welcome(request))
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def _download(self, request: Request) -> Response:
        entry = await self._entry(request)
        selection = _DOWNLOADS.get(request.path_params["what"])
        form = next((form for form in _FORMATS if form == request.path_params["form"]), None)
        if selection is None or form is None or entry.folder is None:
            raise HTTPException(404)
        if form is Format.XLSX and not can_write_sheets():
            return PlainTextResponse(f"{NO_SHEETS}\n", 501)
        headers = {"Content-Disposition": f'attachment; filename="{entry.key}-{selection}.{form}"'}
        if request.method == "HEAD":
            return Response(media_type=_FORMATS[form], headers=headers)
        folder = entry.folder
        file: BinaryIO = TemporaryFile()  # noqa: SIM115 - closed at the end of the answer
        try:
            await anyio.to_thread.run_sync(export, folder, selection, form, file, limiter=self._heavy)
        except BaseException:
            file.close()
            raise
        headers["Content-Length"] = str(file.seek(0, os.SEEK_END))
        return StreamingResponse(_content(file), media_type=_FORMATS[form], headers=headers)

    async def _entry(self, request: Request) -> Entry:
        entry = await anyio.to_thread.run_sync(self._find, request.path_params["key"])
        if entry is None:
            raise HTTPException(404)
        return entry

    def _find(self, key: str) -> Entry | None:
        """A run that is still there: the list is a few seconds old."""
        entry = self._catalog.find(key)
        is_gone = entry is not None and entry.folder is not None and not entry.folder.path.is_dir()
        return None if is_gone else entry

    # -- one device -------------------------------------------------------------------------------------

    async def _device(self, request: Request) -> Response:
        given = request.query_params.get("id", "").strip()
        device = devices.cleaned(given)
        if not device or len(device) > devices.MAX_LENGTH:
            return self._page(request, "device.html", status=400 if given else 200, given=given, found=None)
        entries = await anyio.to_thread.run_sync(self._catalog.entries)
        found = await anyio.to_thread.run_sync(
            devices.look_up, device, entries, self._options.ledger, limiter=self._heavy
        )
        return self._page(request, "device.html", given=given, found=found)

    # -- access -----------------------------------------------------------------------------------------

    async def _show_login(self, request: Request) -> Response:
        if self._is_welcome(request):
            return RedirectResponse("/", 303)
        return self._page(
            request, "login.html", next=_local(request.query_params.get("next", "/")), problem=""
        )

    async def _log_in(self, request: Request) -> Response:
        form = await _form(request)
        wanted = _local(form.get("next", "/"))
        if self._token is None:
            return RedirectResponse(wanted, 303)
        address = address_of(request)
        if wait := self._failures.wait_s(address):
            seconds = f"{ceil(wait)}"
            problem = f"Too many wrong tokens. Try again in {seconds} s."
            page = self._page(request, "login.html", status=429, next=wanted, problem=problem)
            page.headers["Retry-After"] = seconds
            return page
        if not self._token.is_same(form.get("token", "")):
            self._failures.fail(address)
            return self._page(request, "login.html", status=401, next=wanted, problem="The token is wrong.")
        # A proxy with TLS says so only by the origin of the page.
        is_secure = self._options.is_tls or request.headers.get("origin", "").startswith("https://")
        answer = RedirectResponse(wanted, 303)
        answer.set_cookie(
            f"__Host-{SESSION_COOKIE}" if is_secure else SESSION_COOKIE,
            self._sessions.begin(),
            max_age=SESSION_S,
            secure=is_secure,
            httponly=True,
            samesite="strict",
        )
        return answer

    async def _log_out(self, request: Request) -> Response:
        answer = RedirectResponse("/login" if self._token else "/", 303)
        for name in (SESSION_COOKIE, f"__Host-{SESSION_COOKIE}"):
            if value := request.cookies.get(name):
                self._sessions.end(value)
                answer.delete_cookie(
                    name, secure=name.startswith("__Host-"), httponly=True, samesite="strict"
                )
        return answer

    def _is_welcome(self, request: Request) -> bool:
        return self._token is None or has_session(request, self._sessions)

    # -- answers ----------------------------------------------------------------------------------------

    async def _metrics(self, _: Request) -> Response:
        try:
            from batchlic.runs.exposition import CONTENT_TYPE, exposition  # noqa: PLC0415 - an extra
        except ImportError:
            return PlainTextResponse(NO_METRICS, 501)
        entries = await anyio.to_thread.run_sync(self._catalog.entries)
        metrics = await anyio.to_thread.run_sync(exposition, [entry.run for entry in entries])
        return Response(metrics, media_type=CONTENT_TYPE)

    def _page(self, request: Request, name: str, *, status: int = 200, **context: object) -> HTMLResponse:
        shared = {
            "can_log_out": self._token is not None and has_session(request, self._sessions),
            "is_welcome": self._is_welcome(request),
            "path": request.scope["path"],
        }
        return HTMLResponse(shown(_templates().get_template(name).render(shared | context)), status)

    async def _http_error(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        text = (
            "There is no such page or run. A deleted run has no page any more."
            if status == 404
            else "The server can't answer this request."
        )
        return self._page(request, "error.html", status=status, problem=text)

    async def _error(self, request: Request, error: Exception) -> Response:
        return self._page(request, "error.html", status=500, problem=str(error))


# -- details --------------------------------------------------------------------------------------------


async def _healthz(_: Request) -> Response:
    return PlainTextResponse("ok\n")


_ASSETS = Path(__file__).parent / "static"
_MEDIA_TYPES = {"pages.css": "text/css", "live.js": "text/javascript", "icon.svg": "image/svg+xml"}


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name == "report.css":
        return Response(style(), media_type="text/css")
    if name not in _MEDIA_TYPES:
        raise HTTPException(404)
    return Response(_asset(name), media_type=_MEDIA_TYPES[name])


@cache
def _asset(name: str) -> bytes:
    return (_ASSETS / name).read_bytes()


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form. What can't be read is an empty form."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM:
                return {}
    except ClientDisconnect:
        return {}
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=10)
    except ValueError:
        return {}
    return {name: values[-1] for name, values in fields.items()}


async def _content(file: BinaryIO) -> Any:  # noqa: ANN401 - an async generator of bytes
    with file:
        file.seek(0)
        while chunk := await anyio.to_thread.run_sync(file.read, _CHUNK):
            yield chunk


def _local(path: str) -> str:
    """A path on this server, such as the page that was asked for before the login; `/` for anything else."""
    return path if _LOCAL.fullmatch(path) else "/"


def _number(text: str) -> int:
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 7 else 1


def _is_chosen(run: ListedRun, asked: dict[str, str]) -> bool:
    """Whether a run passes the filters of the list."""
    if asked["job"] and run.job != asked["job"]:
        return False
    if asked["since"].isascii() and asked["since"].isdigit() and run.state not in UNKNOWN:
        days = min(3650, int(asked["since"][:5]))
        earliest = datetime.now(UTC) - timedelta(days=days)
        if (run.began_at or "") < time_in_files(round(earliest.timestamp() * 1e6)):
            return False
    if asked["show"] == "attention":
        return run.needs_attention
    return asked["show"] != "working" or run.state is RunState.AT_WORK


def _fingerprint(entries: Sequence[Entry]) -> str:
    """A text that changes once a run begins, ends or is gone."""
    return f"{hash(tuple((entry.key, entry.run.state) for entry in entries)):x}"


def _share_done(run: ListedRun) -> str:
    """How much of a run at work is done."""
    planned = run.planned or 0
    if not planned:
        return "planning"
    return f"{100 * sum(run.shown_statuses.values()) // planned}% done"


def _downloads(run: ListedRun) -> list[tuple[str, str, int]]:
    """Names, titles and row counts of what can be downloaded, if there are rows."""
    offered = [
        ("rejects", "rejected", sum(run.rejected.values())),
        ("failed", "failed", run.shown_statuses.get(DeviceStatus.FAILED, 0)),
        ("in_doubt", "in doubt", run.shown_statuses.get(DeviceStatus.IN_DOUBT, 0)),
    ]
    return [one for one in offered if one[2]]


def _night(time: str) -> str:
    """A time to the minute: `2026-11-28 02:00`."""
    return time[:16].replace("T", " ")


def _short_dir(run_dir: str, root: str) -> str:
    """The path of a run below the folder that is served."""
    return run_dir.removeprefix(root).strip("/") or run_dir


@cache
def _templates() -> Environment:
    templates = environment("batchlic.web")
    templates.filters.update(night=_night)
    templates.globals.update(
        short_dir=_short_dir,
        tone=charts.tone,
        sparkline_size=charts.SPARKLINE,
        share_done=_share_done,
        title_of=devices.title_of,
        details_of=devices.details_of,
        tone_of=devices.tone_of,
        can_write_sheets=can_write_sheets,
    )
    return templates
