"""The option `--profile` of commands that need settings, and the account of a profile."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from batchlic.cli.completion import complete_profiles
from batchlic.errors import UsageError
from batchlic.profiles import PROFILE

if TYPE_CHECKING:
    from batchlic.job import Job


def _choose(name: str | None) -> str | None:
    """Use a profile in this process and its children, as if BATCHLIC_PROFILE had named it."""
    if name is not None:
        os.environ[PROFILE] = name
    return name


# Eager: the argument RUN_DIR may be in the state folder, which is a setting.
ProfileName = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        help="Login and other settings to use, by name.",
        envvar=PROFILE,
        is_eager=True,
        autocompletion=complete_profiles,
        callback=_choose,
    ),
]


def account_or_default(given: str) -> str:
    """The account that an option names, or that of the settings. Raises UsageError if there is none."""
    from batchlic.settings import load_settings

    account = given or load_settings().account
    if not account:
        raise UsageError("name the account with --account, in the profile, or in BATCHLIC_ACCOUNT")
    return account


def with_default_account(job: "Job") -> "Job":
    """The job with the account of the settings as its default account, if it has none of its own."""
    from batchlic.settings import load_settings

    return job if job.license.account is not None else job.with_default_account(load_settings().account)
