"""What forked processes have done before they start.

The commands are built, the templates of the report are compiled, and garbage collection leaves both alone.
"""

import gc

import typer

from batchlic.cli.app import app
from batchlic.writer.report.page import _environment

_COMMAND = typer.main.get_command(app)


def _call(_: typer.Typer, *args: object, **kwargs: object) -> object:
    return _COMMAND(*args, **kwargs)


for name in _environment().list_templates():
    _environment().get_template(name)
setattr(typer.Typer, "__call__", _call)  # noqa: B010 - mypy wants the types of typer
gc.collect()
gc.freeze()
