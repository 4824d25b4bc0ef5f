"""How much a command says on stderr: `--quiet`, `--verbose`, and the setting BATCHLIC_VERBOSITY."""

import os
from typing import Annotated

import typer

from batchlic.cli.help import Panel
from batchlic.errors import BatchlicError, UsageError

VERBOSITY = "BATCHLIC_VERBOSITY"
QUIET, NORMAL, VERBOSE = "quiet", "normal", "verbose"


def _choose(word: str, *, is_given: bool) -> bool:
    """Say so much in this process and its children, as if BATCHLIC_VERBOSITY had the word."""
    if is_given:
        os.environ[VERBOSITY] = word
    return is_given


def _choose_quiet(is_given: bool) -> bool:  # noqa: FBT001 - Typer's signature
    return _choose(QUIET, is_given=is_given)


def _choose_verbose(is_given: bool) -> bool:  # noqa: FBT001 - as above
    return _choose(VERBOSE, is_given=is_given)


Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Show no progress and no notices, only results, warnings and errors.",
        rich_help_panel=Panel.OUTPUT,
        callback=_choose_quiet,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Show each event of the run's log on stderr, too.",
        rich_help_panel=Panel.OUTPUT,
        callback=_choose_verbose,
    ),
]


def verbosity() -> str:
    """`quiet`, `normal` or `verbose`, by the setting. Raises UsageError for another word.

    Settings that can't be read are normal.
    """
    if given := os.environ.get(VERBOSITY):
        if given not in (QUIET, NORMAL, VERBOSE):
            raise UsageError(f"{VERBOSITY}: {given!r} is none of {QUIET}, {NORMAL} and {VERBOSE}")
        return given
    from batchlic.settings import load_settings

    try:
        return load_settings().verbosity
    except BatchlicError:
        return NORMAL  # the command itself reports what is wrong
