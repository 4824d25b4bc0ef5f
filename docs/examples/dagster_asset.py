"""Assign licenses to the fleet every night, as a Dagster asset.

`dagster dev -f docs/examples/dagster_asset.py` shows it. A run that stopped early is continued by a retry.
"""

from pathlib import Path

import dagster as dg
import polars as pl

import batchlic

RUNS = Path("runs")
NIGHTS = dg.DailyPartitionsDefinition(start_date="2026-11-01")


@dg.asset
def fleet() -> pl.DataFrame:
    """The devices in service."""
    rows = pl.read_csv("sample_data/fleet.csv.gz", infer_schema=False)
    return rows.filter(pl.col("Status") == "In service")


@dg.asset(partitions_def=NIGHTS)
def licenses(context: dg.AssetExecutionContext, fleet: pl.DataFrame) -> dg.MaterializeResult:
    """A license for each device of the fleet. Each night has a folder, which a retry continues."""
    folder = RUNS / f"onboard-{context.partition_key}"
    try:
        if (folder / "journal.db").exists():  # a retry: go on with the plan of the first attempt
            run = batchlic.resume(folder, sandbox=True)
        else:
            run = batchlic.assign(
                fleet,
                account="0000123456-00001",
                sku="SIMSec-IoT",
                max_rejects=500,  # fewer broken rows than this are no failure
                run_dir=folder,
                sandbox=True,  # a carrier on this machine; without it, the carrier of the settings
            )
        run.raise_for_status()
    except batchlic.StoppedEarly as error:
        raise dg.RetryRequested(max_retries=6, seconds_to_wait=15 * 60) from error
    except batchlic.BatchlicError as error:  # needs a person
        raise dg.Failure(str(error), allow_retries=False) from error
    statuses = {str(status): devices for status, devices in run.summary.statuses.items()}
    return dg.MaterializeResult(metadata={**statuses, "folder": dg.MetadataValue.path(str(run.folder))})


defs = dg.Definitions(assets=[fleet, licenses])
