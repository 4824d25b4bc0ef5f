"""Profiles: settings of several logins under names, in one file or in the environment.

A secret may be the output of a command, so that any vault can keep it. The command runs when the secret is
needed, and once in a process.
"""

import os
import shlex
import stat
import subprocess
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from batchlic.errors import UsageError

PROFILE = "BATCHLIC_PROFILE"
"""Names the profile to use. `--profile` sets it."""

PROFILES_FILE = "BATCHLIC_PROFILES_FILE"
"""Names the file of the profiles, instead of `profiles.toml` in the user's configuration folder."""

IN_ENVIRONMENT = "BATCHLIC_PROFILE__"
"""Beginning of a setting of a profile in the environment: `BATCHLIC_PROFILE__EAST__PASSWORD`."""

COMMAND = "_command"
"""End of a key whose value is a command that prints the secret."""

COMMAND_TIMEOUT_S = 30.0
"""Seconds that a command may take, with a prompt of the vault."""

_MOST_SHOWN = 500
"""Characters of a command's stderr that an error shows."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The settings of one profile, by name of the setting; `commands` print those that are secrets."""

    name: str
    values: Mapping[str, str] = field(repr=False)
    commands: Mapping[str, tuple[str, ...]]

    def secret(self, setting: str) -> str | None:
        """What the command of a setting prints; None if it has none. Raises UsageError."""
        command = self.commands.get(setting)
        return None if command is None else _output(command, f"profile {self.name}: {setting}{COMMAND}")


def find_profile(
    settings: Collection[str], secrets: Collection[str], name: str | None = None
) -> Profile | None:
    """The profile of this name, or else the one that BATCHLIC_PROFILE names; None if it names none.

    `settings` are the names of all settings, and `secrets` those that may come from a command. Raises
    UsageError if there is no such profile, if it has an unknown key, or if others can read the file.
    """
    name = name or os.environ.get(PROFILE)
    if not name:
        return None
    path = _file()
    tables = {} if path is None else _tables(path)
    given = _from_environment()
    known = sorted({*tables, *map(str.lower, given)})
    key = _in_environment(name)
    if name not in tables and key not in given:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(
            f"{PROFILE} (--profile) {name}: there is no such profile in {_place(path)}; known: "
            f"{', '.join(known) or 'none'}{hint}"
        )
    alike = [table for table in tables if table != name and _in_environment(table) == key]
    if alike and key in given:
        raise UsageError(
            f"{IN_ENVIRONMENT}{key}__…: is for two profiles of {path}, {name} and {alike[0]}: rename one"
        )
    where = f"{path}: [{name}]"
    profile = _profile(name, tables.get(name, {}), where, settings, secrets)
    other = _profile(name, given.get(key, {}), f"{IN_ENVIRONMENT}{key}__", settings, secrets)
    # The environment wins, whether it has the secret itself or a command.
    values = {k: v for k, v in profile.values.items() if k not in other.commands} | dict(other.values)
    commands = {k: c for k, c in profile.commands.items() if k not in other.values} | dict(other.commands)
    return Profile(name, values, commands)


def known_profiles() -> list[str]:
    """The names of the profiles in the file and in the environment. Raises UsageError as `find_profile`."""
    path = _file()
    return sorted({*(() if path is None else _tables(path)), *map(str.lower, _from_environment())})


def is_profile_setting(name: str) -> bool:
    """Whether an environment variable, in capitals, is about profiles."""
    return name in {PROFILE, PROFILES_FILE} or name.startswith(IN_ENVIRONMENT)


# -- where profiles are ---------------------------------------------------------------------------------


def _file() -> Path | None:
    """The file of the profiles; None if there is none."""
    if given := os.environ.get(PROFILES_FILE):
        if not Path(given).is_file():
            raise UsageError(f"{PROFILES_FILE}: there is no file {given}")
        return Path(given)
    path = _default_file()
    return path if path is not None and path.is_file() else None


def _default_file() -> Path | None:
    """By https://specifications.freedesktop.org/basedir-spec, which ignores relative paths."""
    given = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if given.is_absolute():
        return given / "batchlic" / "profiles.toml"
    try:
        return Path.home() / ".config" / "batchlic" / "profiles.toml"
    except RuntimeError:
        return None


def _place(path: Path | None) -> str:
    return str(path or _default_file() or PROFILES_FILE)


def _tables(path: Path) -> dict[str, Any]:
    try:
        text, mode = path.read_text(encoding="utf-8-sig"), path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"{path}: can't be read: {reason}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(f"{path}: other users may read these profiles: chmod 600 {path}")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not a TOML file: {error}") from None
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {name} is in no profile: write it below a line [NAME]")
    return tables


def _in_environment(name: str) -> str:
    """The name of a profile as a part of an environment variable."""
    return name.upper().replace("-", "_").replace(".", "_")


def _from_environment() -> dict[str, dict[str, str]]:
    """The settings of profiles in the environment, by name of the profile, in capitals."""
    found: dict[str, dict[str, str]] = {}
    for name, value in os.environ.items():
        if name.upper().startswith(IN_ENVIRONMENT):
            profile, _, setting = name.upper().removeprefix(IN_ENVIRONMENT).partition("__")
            found.setdefault(profile, {})[setting.lower()] = value
    return found


# -- what is in them ------------------------------------------------------------------------------------


def _profile(
    name: str, table: Mapping[str, Any], where: str, settings: Collection[str], secrets: Collection[str]
) -> Profile:
    """The profile in a table. Raises UsageError for unknown keys and wrong values, without the values."""
    known = [*settings, *(f"{secret}{COMMAND}" for secret in secrets)]
    values: dict[str, str] = {}
    commands: dict[str, tuple[str, ...]] = {}
    for key, value in table.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            raise UsageError(
                f"{where} {key}: there is no such key{f'; did you mean {near[0]}?' if near else ''}"
            )
        if key.endswith(COMMAND):
            commands[key.removesuffix(COMMAND)] = tuple(_words(value, f"{where} {key}"))
        elif isinstance(value, str):
            values[key] = value
        else:
            raise UsageError(f"{where} {key}: give a text in quotes")
    if both := sorted(values.keys() & commands.keys()):
        raise UsageError(f"{where} {both[0]}: give the value or the command {both[0]}{COMMAND}, not both")
    return Profile(name, values, commands)


def _words(value: object, where: str) -> Iterator[str]:
    try:
        words = shlex.split(value) if isinstance(value, str) else value
    except ValueError:
        words = None
    if not (isinstance(words, list) and words and all(isinstance(word, str) for word in words)):
        raise UsageError(f'{where}: give a command as a list of words, such as ["pass", "show", "batchlic"]')
    yield from words


@cache
def _output(command: tuple[str, ...], where: str) -> str:
    """What a command prints, without the line feed at its end. No error shows what it printed."""
    try:
        done = subprocess.run(  # noqa: S603 - the operator's command, without a shell
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except OSError as error:
        raise UsageError(f"{where}: {command[0]} can't be started: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"{where}: {command[0]} did not end within {COMMAND_TIMEOUT_S:g} s: unlock the vault, and run "
            "the command by hand"
        ) from None
    if done.returncode != 0:
        raise UsageError(f"{where}: {command[0]} ended with exit code {done.returncode}{_complaint(done)}")
    try:
        text = done.stdout.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{where}: {command[0]} printed something that is not UTF-8") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise UsageError(f"{where}: {command[0]} printed nothing: run it by hand")
    return text


def _complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    """What a command wrote to stderr, without lines that it also printed as the secret."""
    text = done.stderr.decode(errors="replace")
    for line in filter(None, done.stdout.decode(errors="replace").splitlines()):
        text = text.replace(line, "…")
    text = " ".join(text.split())
    return f": {text[:_MOST_SHOWN]}" if text else ""
