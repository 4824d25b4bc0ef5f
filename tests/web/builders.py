"""Folders of runs for the pages, with texts that would harm a page that does not escape them."""

from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import httpx
from starlette.types import ASGIApp

from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import Step
from batchlic.job import make_job
from batchlic.journal import Intent
from batchlic.journal.writes import answer_row, intent_row
from batchlic.ledger import Ledger
from batchlic.ledger.files import import_files
from batchlic.runs.folder import RunFolder
from batchlic.web.app import PageOptions, create_app
from tests.callbacks.builders import ACCOUNT, SKU, submitted_run
from tests.runs.kept_runs import finished

TOKEN = "a-token-of-thirty-two-characters"
SCRIPT = "<script>document.body.dataset.harmed = 1</script>"
IMAGE = '"\'><img src=x onerror="document.body.dataset.harmed = 1">'
REVERSED = "abc\u202egnp.exe"
FORMULA = '=HYPERLINK("http://x")'


def hostile_inventory(path: Path, devices: int) -> Path:
    """Devices, and rows whose cells are no identifiers."""
    rows = [f"{imei(number)}," for number in range(devices)]
    rows += [f"{_quoted(cell)}," for cell in (SCRIPT, IMAGE, REVERSED, FORMULA)]
    path.write_text("imei,iccid\n" + "\n".join(rows) + "\n")
    return path


def imei(number: int) -> str:
    body = f"86450800{number:06}"
    doubled = [int(digit) * (1 + at % 2) for at, digit in enumerate(body)]
    return f"{body}{-sum(d // 10 + d % 10 for d in doubled) % 10}"


DEVICE = imei(0)
"""A planned device, in batch 1."""


def _quoted(cell: str) -> str:
    doubled = cell.replace('"', '""')
    return f'"{doubled}"'


def answers(batch_id: int) -> list[Answer | None]:
    """The first batch is accepted, the second refused with a hostile message, the others are lost."""
    match batch_id:
        case 1:
            return [
                Answer(outcome=Outcome.THROTTLED, http_status=429),
                Answer(outcome=Outcome.ACCEPTED, http_status=200, request_id=IMAGE),
            ]
        case 2:
            return [Answer(outcome=Outcome.REFUSED, http_status=400, error_code=SCRIPT, error_message=IMAGE)]
        case _:
            return [None]


def hostile_run(path: Path, *, devices: int = 30) -> RunFolder:
    """An interrupted run of three batches or more: accepted, failed and in doubt, with four rejected rows."""
    return submitted_run(path, devices, batch_size=10, answered=answers, inventory=hostile_inventory)


def runs_folder(path: Path) -> Path:
    """A folder of runs: three nights of one job with a hostile name, an interrupted run, a damaged one."""
    for night, exit_code in enumerate((0, 3, 6)):
        finished(path / f"night-{night}", days=10 - night, exit_code=exit_code, job=f"nightly {SCRIPT}")
    hostile_run(path / "interrupted")
    finished(path / "damaged")
    (path / "damaged" / "journal.db").write_bytes(b"no database")
    return path


class _Transport(httpx.BaseTransport):
    """Asks an app in this process."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = httpx.ASGITransport(app)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def ask() -> httpx.Response:
            answer = await self._app.handle_async_request(request)
            return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())

        return anyio.run(ask)


def browser_of(app: ASGIApp) -> httpx.Client:
    """A browser that follows no redirects."""
    return httpx.Client(transport=_Transport(app), base_url="http://127.0.0.1")


def ledger_of(folder: Path) -> Path:
    """A ledger in a folder of runs, which has the license of DEVICE."""
    listed = folder.parent / "licensed.csv"
    listed.write_text(f"imei\n{DEVICE}\n")
    path = folder / "ledger.db"
    content = {"action": "assign", "inventory": {"files": [str(listed)]}}
    options = make_job(content, {"license": {"account": ACCOUNT, "sku": SKU}}, where="test").read_options()
    with closing(Ledger(path)) as ledger:
        import_files(ledger, [str(listed)], options, carrier="https://carrier.example/api")
    return path


def client(folder: Path, *, logged_in: bool = False, **options: Any) -> httpx.Client:  # noqa: ANN401
    """A browser at the app, as if it listened on 127.0.0.1."""
    given = {"folder": folder, "ledger": folder / "ledger.db", **options}
    browser = browser_of(create_app(PageOptions(**given)))
    if logged_in:
        assert browser.post("/login", data={"token": given["token"]}).status_code == 303
    return browser


def send(folder: RunFolder, batch_id: int, outcome: Outcome, *, at: int, step: str | None = None) -> None:
    """Record a request for ten devices and its answer, as the process at work on the run does."""
    intent = Intent(
        batch_id=batch_id,
        step=Step(step) if step else None,
        part="",
        x_request_id=f"x-{batch_id}",
        attempt=1,
        action=Action.ASSIGN,
        device_count=10,
        request_sha256="ab" * 32,
        pace_rps=None,
        started_at=at,
    )
    answer = Answer(outcome=outcome, http_status=200)
    with closing(folder.journal.open()) as journal:
        seq = journal._last_seq + 1
        is_final = outcome is Outcome.REFUSED
        journal._commit([intent_row(seq, intent), answer_row(seq, answer, duration_ms=1, final=is_final)])
