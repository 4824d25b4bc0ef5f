"""The arguments that commands share."""

from pathlib import Path
from typing import Annotated

import typer

Inventories = Annotated[
    list[str], typer.Argument(metavar="INVENTORY", help="Files or addresses that list the devices.")
]
JobFile = Annotated[Path, typer.Argument(metavar="JOB.toml", help="Job file, as in jobs/.")]


def find_run_folder(given: str) -> Path:
    """The folder that RUN_DIR names. Raises UsageError as `state_folder` does."""
    from batchlic.state import find_run

    return find_run(given)


RunDirectory = Annotated[
    Path,
    typer.Argument(
        metavar="RUN_DIR", help="Run folder, or its name in the state folder.", parser=find_run_folder
    ),
]
