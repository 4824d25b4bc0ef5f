"""The command `batchlic schema`."""

import typer

from batchlic.cli.help import Section, examples
from batchlic.cli.output import print_json

app = typer.Typer()


@app.command(
    rich_help_panel=Section.PREPARE,
    epilog=examples(
        "batchlic schema > batchlic-job.schema.json",
        "# Then begin a job file with the line  #:schema ./batchlic-job.schema.json",
    ),
)
def schema() -> None:
    """Print the JSON Schema of job files, so that an editor can complete and check them."""
    from batchlic.job_schema import job_schema

    print_json(job_schema())
