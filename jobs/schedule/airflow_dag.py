"""Onboard the fleet every night, as an Airflow DAG. Copy this file into the dags folder.

Exit 6 (stopped early, resumable) is retried. A retry has the same logical date and so the same run folder: it
continues the run. Every other exit code fails at once, because it needs a person.
"""

import os
import subprocess
from datetime import UTC, datetime, timedelta

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

BATCHLIC = "/opt/batchlic/.venv/bin/batchlic"
JOB = "/opt/batchlic/jobs/onboard_fleet.toml"
STATE = "/var/lib/batchlic"
STOPPED_EARLY = 6


@dag(
    schedule="10 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["fleet"],
)
def onboard_fleet() -> None:
    """One task: the nightly run."""

    @task(retries=6, retry_delay=timedelta(minutes=15))
    def onboard(ds_nodash: str | None = None) -> None:
        """Credentials come from the worker's environment or the file that BATCHLIC_CREDENTIALS_FILE names."""
        command = [BATCHLIC, "run", JOB, "--run-dir", f"{STATE}/{ds_nodash}"]
        ended = subprocess.run(command, env={**os.environ, "BATCHLIC_STATE_DIR": STATE}, check=False)
        if ended.returncode == STOPPED_EARLY:
            raise AirflowException("batchlic stopped early; the next retry continues the run")
        if ended.returncode:
            raise AirflowFailException(f"batchlic exited with {ended.returncode}: see {STATE}/{ds_nodash}")

    onboard()


onboard_fleet()
