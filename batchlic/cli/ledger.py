"""The doors to the ledger: `batchlic ledger show`, `import`, `export` and `forget`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from batchlic.cli.options import Json, PlanOptions
from batchlic.cli.output import put, say
from batchlic.errors import ExitCode, UsageError

app = typer.Typer(help="What batchlic knows to be licensed, across runs.", no_args_is_help=True)

LedgerFile = Annotated[Path, typer.Option("--ledger", help="The ledger.")]
DEFAULT = Path("runs/ledger.db")


@app.command()
def show(
    *,
    ledger: LedgerFile = DEFAULT,
    account: Annotated[str | None, typer.Option(help="Only this account.")] = None,
    sku: Annotated[str | None, typer.Option(help="Only this SKU.")] = None,
    device: Annotated[str | None, typer.Option(help="Only the device with this IMEI or ICCID.")] = None,
    json: Json = False,
) -> None:
    """Count the devices by what is known of them, or tell what is known of one."""
    from batchlic.cli.format import describe_counts, describe_device
    from batchlic.ledger.files import counts, existing, of_device

    with existing(ledger) as opened:
        if device is None:
            figures = counts(opened, account=account, sku=sku)
            put(figures) if json else say(describe_counts(figures))
        else:
            known = of_device(opened, device, account=account, sku=sku)
            put(known) if json else say(describe_device(device, known))


@app.command(name="import")
def import_(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE", help="Earlier results.parquet or a folder of them, an export, a portal's list."
        ),
    ],
    *,
    ledger: LedgerFile = DEFAULT,
    carrier: Annotated[
        str | None, typer.Option(help="Base URL of the carrier [that of the settings].")
    ] = None,
    account: Annotated[str | None, typer.Option(help="Account of rows that name none.")] = None,
    sku: Annotated[str | None, typer.Option(help="SKU of rows that name none.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="NAME=HEADER", help="As with `batchlic plan`. Repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """Take in devices that are known from elsewhere to hold their license."""
    from contextlib import closing

    from batchlic.cli.format import describe_import
    from batchlic.job import make_job
    from batchlic.ledger.files import import_files
    from batchlic.ledger.ledger import Ledger
    from batchlic.runs.ledger_sync import refuse_at_work
    from batchlic.settings import load_settings

    content = {"action": "assign", "inventory": {"files": files}}
    flags = PlanOptions(account=account, sku=sku, column=column).overrides()
    options = make_job(content, flags, where="options").read_options()
    where = (carrier or load_settings().base_url).rstrip("/")
    with closing(Ledger(ledger)) as opened:
        refuse_at_work(opened, where)
        imported = import_files(opened, files, options, carrier=where)
    put(imported) if json else say(describe_import(imported))
    sys.exit(ExitCode.INCOMPLETE if imported.rejected else ExitCode.OK)


@app.command()
def export(
    *,
    to: Annotated[Path, typer.Option(help="A .parquet or .csv file.")],
    ledger: LedgerFile = DEFAULT,
) -> None:
    """Write all that is known, one row a device, to a file that `import` takes back."""
    from batchlic.ledger.files import existing, export_ledger

    with existing(ledger) as opened:
        devices = export_ledger(opened, to)
    say(f"{devices:,} devices in {to}")


@app.command()
def forget(
    run_id: Annotated[str, typer.Argument(help="A run that did not end, and whose folder is lost.")],
    *,
    ledger: LedgerFile = DEFAULT,
) -> None:
    """Do not ask for a lost run any more: what it did and did not tell stays unknown."""
    from batchlic.ledger.files import existing

    with existing(ledger) as opened:
        if not opened.close_run(run_id):
            raise UsageError(f"{ledger}: there is no run {run_id} in this ledger")
