"""Onboard the fleet every night, as an Airflow DAG: a task for each account. Copy it into the dags folder.

Each account has a job file. Its task is a run of its own: a throttled account does not hold back the others,
and one that fails is retried alone. Exit 6 (stopped early, resumable) is retried. A retry has the same
logical date and so the same run folder: it continues the run. Every other exit code fails at once, because it
needs a person. If the workers are several machines, set BATCHLIC_STORE, and let STATE be a folder that all of
them see.
"""

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

BATCHLIC = "/opt/batchlic/.venv/bin/batchlic"
JOBS = "/opt/batchlic/jobs/accounts"
STATE = "/var/lib/batchlic"
STOPPED_EARLY = 6
AT_ONCE = 8  # accounts that are sent side by side


@dag(
    schedule="10 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["fleet"],
)
def onboard_fleet() -> None:
    """A task that lists the accounts, and a run for each."""

    @task
    def accounts() -> list[str]:
        """The names of the job files, such as `0000123456-00001`."""
        return sorted(path.stem for path in Path(JOBS).glob("*.toml"))

    @task(
        retries=6,
        retry_delay=timedelta(minutes=15),
        max_active_tis_per_dag=AT_ONCE,
        map_index_template="{{ account }}",
    )
    def onboard(account: str, ds_nodash: str | None = None) -> None:
        """Credentials come from the worker's environment or the file that BATCHLIC_CREDENTIALS_FILE names."""
        folder = f"{STATE}/{ds_nodash}-{account}"
        command = [BATCHLIC, "run", f"{JOBS}/{account}.toml", "--run-dir", folder]
        ended = subprocess.run(command, env={**os.environ, "BATCHLIC_STATE_DIR": STATE}, check=False)
        if ended.returncode == STOPPED_EARLY:
            raise AirflowException("batchlic stopped early; the next retry continues the run")
        if ended.returncode:
            raise AirflowFailException(f"batchlic exited with {ended.returncode}: see {folder}")

    onboard.expand(account=accounts())


onboard_fleet()
