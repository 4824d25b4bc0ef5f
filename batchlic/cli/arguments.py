"""The arguments that commands share."""

from pathlib import Path
from typing import Annotated

import typer

Inventories = Annotated[list[str], typer.Argument(metavar="INVENTORY", help="Files that list the devices.")]
JobFile = Annotated[Path, typer.Argument(metavar="JOB.toml", help="Job file, as in jobs/.")]
RunDirectory = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run folder.")]
