"""Assign licenses to the fleet every night, in a task of an Airflow DAG. Copy this file into the dags folder.

A run that stopped early is continued by Airflow's next retry. Other errors fail at once: they need a person.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowFailException

import batchlic

FLEET = "sample_data/fleet.csv.gz"  # absolute paths on a real worker
RUNS = Path("runs")


@task(retries=6, retry_delay=timedelta(minutes=15))
def onboard(ds: str) -> dict[str, int]:
    """Assign licenses; return the number of devices by status. `ds` is the logical date of the DAG run."""
    folder = RUNS / f"onboard-{ds}"
    try:
        if (folder / "journal.db").exists():  # a retry: go on with the plan of the first attempt
            run = batchlic.resume(folder, sandbox=True)
        else:
            run = batchlic.assign(
                FLEET,
                account="0000123456-00001",
                sku="SIMSec-IoT",
                max_rejects=500,  # fewer broken rows than this are no failure
                run_dir=folder,
                sandbox=True,  # a carrier on this machine; without it, the carrier of the settings
            )
        run.raise_for_status()
    except batchlic.StoppedEarly:
        raise
    except batchlic.BatchlicError as error:
        raise AirflowFailException(str(error)) from error
    return {str(status): devices for status, devices in run.summary.statuses.items()}


@dag(schedule="10 2 * * *", start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, max_active_runs=1)
def onboard_fleet() -> None:
    """One task: the nightly run."""
    onboard(ds="{{ ds }}")


onboard_fleet()
