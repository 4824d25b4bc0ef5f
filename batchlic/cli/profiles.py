"""The option `--profile`, which commands that need settings have in common, and the account of a profile."""

import inspect
import os
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
_Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        help=f"Login and other settings to use, by name: docs/how-to/profiles.md [{PROFILE}].",
        is_eager=True,
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


def offer_profiles(*apps: typer.Typer) -> None:
    """Give every command of these groups the option."""
    for app in apps:
        for command in app.registered_commands:
            if command.callback is not None:
                command.callback = _with_profile(command.callback)


def _with_profile(command: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(command)
    option = inspect.Parameter("profile", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_Profile)

    @wraps(command)
    def chosen(**given: Any) -> Any:  # noqa: ANN401 - whatever Typer has parsed
        del given["profile"]  # the environment has it
        return command(**given)

    chosen.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    chosen.__annotations__ = {**command.__annotations__, "profile": _Profile}
    return chosen
