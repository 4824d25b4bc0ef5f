"""Settings of carrier, credentials, listener and notifications: environment, `.env`, credentials file.

A command has no other source of secrets; a program may give them to `Settings`. Only the owner may have
access to a file with secrets (promise F).
"""

import os
import stat
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Literal, TypedDict, Unpack

from dotenv import dotenv_values
from pydantic import Field, PrivateAttr, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from batchlic.callbacks.access import CARRIER_SOURCES, Access, parse_networks
from batchlic.carrier.catalog import BASE_URL
from batchlic.carrier.credentials import Credentials, Secret, refuse_odd_characters
from batchlic.carrier.http_client import check_base_url, refuse_unencrypted
from batchlic.errors import UsageError
from batchlic.objectstore.addresses import is_remote
from batchlic.profiles import PROFILE, Profile, find_profile, is_profile_setting

PREFIX = "BATCHLIC_"
CREDENTIALS_FILE = "BATCHLIC_CREDENTIALS_FILE"
"""Names a file in the format of `.env`, for schedulers that provide secrets as files."""
_NOTIFY_URL, _HEARTBEAT_URL = "BATCHLIC_NOTIFY_URL_", "BATCHLIC_HEARTBEAT_URL_"
"""Beginnings of settings that end with a name of the operator's own."""


_LOGIN = ("base_url", *Credentials.__dataclass_fields__)
"""Settings that belong together. A mix of two logins would be rejected, and five rejections lock a login."""
_FROM_COMMANDS = (*Credentials.__dataclass_fields__, "listener_username", "listener_password")
"""Settings of a profile that may be the output of a command."""


class SettingValues(TypedDict, total=False):
    """What `Settings` may be made of. A secret may be plain text; it is hidden from then on."""

    base_url: str
    client_id: str | SecretStr | None
    client_secret: str | SecretStr | None
    username: str | SecretStr | None
    password: str | SecretStr | None
    access_token: str | SecretStr | None
    session_token: str | SecretStr | None
    listener_username: str | SecretStr | None
    listener_password: str | SecretStr | None
    listener_allowed_sources: str
    listener_store: str | SecretStr | None
    notify_urls: str | SecretStr | None
    heartbeat_url: str | SecretStr | None
    account: str | None
    serve_token: str | SecretStr | None
    verbosity: Literal["quiet", "normal", "verbose"]
    state_dir: str | None
    store: str | SecretStr | None
    lease_s: float


class Settings(BaseSettings):
    """The carrier's address, the login, and where runs are kept.

    A command reads them from the environment, where each is called `BATCHLIC_` and its name in capitals, and
    from files: see `load_settings`. A program may give them instead; then no environment variable counts. No
    secret is in the text of the settings (`repr`).
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, hide_input_in_errors=True)

    base_url: str = BASE_URL
    """Root of the carrier's API."""
    client_id: SecretStr | None = None
    """Id of the OAuth client. With `BATCHLIC_CLIENT_SECRET`, it fetches access tokens."""
    client_secret: SecretStr | None = None
    """Secret of the OAuth client."""
    username: SecretStr | None = None
    """User of the session login. With `BATCHLIC_PASSWORD`, it fetches session tokens."""
    password: SecretStr | None = None
    """Password of the session login."""
    access_token: SecretStr | None = None
    """Ready-made access token, used until the carrier rejects it."""
    session_token: SecretStr | None = None
    """Ready-made session token, used until the carrier rejects it."""
    listener_username: SecretStr | None = None
    """User that callbacks give, as in the registration of the listener."""
    listener_password: SecretStr | None = None
    """Password that callbacks give, as in the registration of the listener."""
    listener_allowed_sources: str = ",".join(CARRIER_SOURCES)
    """Addresses and networks that may send callbacks, separated by commas."""
    listener_store: SecretStr | None = None
    """Store of callbacks: a path, or a URL, which may hold a password."""
    notify_urls: SecretStr | None = None
    """URLs of Apprise for notifications, separated by whitespace."""
    heartbeat_url: SecretStr | None = None
    """URL of a dead man's switch, which a job pings when it ends."""
    account: str | None = Field(default=None, min_length=3, max_length=32)
    """Account where neither the job nor `--account` names one."""
    serve_token: SecretStr | None = None
    """What a login to the pages of `batchlic serve` asks for."""
    verbosity: Literal["quiet", "normal", "verbose"] = "normal"
    """What the command line says on stderr, as with --quiet and --verbose; a program is not affected."""
    state_dir: str | None = None
    """Folder of the runs and the ledger, as an absolute path; None: `./runs` or `~/.local/state/batchlic`."""
    store: SecretStr | None = None
    """PostgreSQL database that machines share, as a URL, which may hold a password; None: files."""
    lease_s: float = Field(default=30.0, ge=1, le=3600)
    """Seconds after which another session may take over a run in the store whose session is not heard of."""
    _named: dict[str, SecretStr] = PrivateAttr(default_factory=dict)
    """URLs of notifications and heartbeats with names of their own, by setting."""

    _profile: Profile | None = PrivateAttr(default=None)
    _store_name: str | None = PrivateAttr(default=None)

    def __init__(self, **values: Unpack[SettingValues]) -> None:
        """Raise UsageError for a wrong or unsafe value, without showing it."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            wrong = "; ".join(f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
            raise UsageError(f"settings: {wrong}") from None
        refuse_odd_characters(f"{PREFIX}BASE_URL", self.base_url)
        if " " in self.base_url:
            raise UsageError(f"{PREFIX}BASE_URL contains a space")
        self.base_url = str(check_base_url(self.base_url)).rstrip("/")
        self.state_dir = _absolute(self.state_dir)
        self._store_name = self._remember_store()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings' signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The values that are given, and nothing else."""
        return (init_settings,)

    @property
    def store_name(self) -> str | None:
        """The URL of the store without its password; None without a store."""
        return self._store_name

    def _remember_store(self) -> str | None:
        if self.store is None or not self.store.get_secret_value():
            return None
        from batchlic.database import postgresql  # noqa: PLC0415 - SQLAlchemy

        return postgresql.remember(self.store.get_secret_value(), lease_s=self.lease_s)

    def credentials(self) -> Credentials:
        """The credentials for the carrier. Raises UsageError that names missing settings."""
        names = Credentials.__dataclass_fields__
        self._run_commands(names)
        values: dict[str, SecretStr | None] = {name: getattr(self, name) for name in names}
        return Credentials(**{name: Secret(v.get_secret_value()) for name, v in values.items() if v})

    def access(self, proxies: Iterable[str] = ()) -> Access:
        """Who may send callbacks, directly or through `proxies`. Raises UsageError for missing settings."""
        self._run_commands(("listener_username", "listener_password"))
        if not (self.listener_username and self.listener_password):
            raise UsageError(
                "set BATCHLIC_LISTENER_USERNAME and BATCHLIC_LISTENER_PASSWORD as in the registration: "
                "otherwise anyone could post false outcomes"
            )
        for name in ("listener_username", "listener_password"):
            refuse_odd_characters(f"{PREFIX}{name.upper()}", getattr(self, name).get_secret_value())
        sources = filter(str.strip, self.listener_allowed_sources.split(","))
        return Access(
            username=Secret(self.listener_username.get_secret_value()),
            password=Secret(self.listener_password.get_secret_value()),
            sources=parse_networks(sources, where=f"{PREFIX}LISTENER_ALLOWED_SOURCES"),
            proxies=parse_networks(proxies, where="--trusted-proxy"),
        )

    def use(self, profile: Profile | None) -> None:
        """Keep the profile whose values these settings have: its commands give the secrets."""
        self._profile = profile

    @property
    def profile(self) -> str | None:
        """The name of the profile in use."""
        return self._profile.name if self._profile else None

    def _run_commands(self, names: Iterable[str]) -> None:
        """Fill in those of the settings that commands of the profile give. Raises UsageError."""
        for name in names:
            secret = self._profile.secret(name) if self._profile and getattr(self, name) is None else None
            if secret is not None:
                setattr(self, name, SecretStr(secret))

    def callback_store(self, given: str | None) -> str:
        """The store of callbacks: `given`, or that of the settings. Raises UsageError without any."""
        location = given if given is not None else self.known_callback_store
        if location is None:
            raise UsageError("no store of callbacks: give --store, or set BATCHLIC_LISTENER_STORE")
        return location

    @property
    def known_callback_store(self) -> str | None:
        """BATCHLIC_LISTENER_STORE, or else the store that machines share; None without any."""
        return self.listener_store.get_secret_value() if self.listener_store else self.store_name

    def remember_named_urls(self, given: Mapping[str, str]) -> None:
        """Keep those of the given settings that are URLs with a name of the operator's own."""
        self._named = {name: SecretStr(value) for name, value in given.items() if _is_named_url(name)}

    def notify_targets(self, names: Iterable[str] | None) -> dict[str, SecretStr]:
        """The URLs of apprise with these names, or else those of BATCHLIC_NOTIFY_URLS, by what to call them.

        Raises UsageError for a name without a URL.
        """
        if names is None:
            return _numbered("BATCHLIC_NOTIFY_URLS", self.notify_urls)
        targets: dict[str, SecretStr] = {}
        for name in names:
            setting = f"{_NOTIFY_URL}{name.upper()}"
            found = _numbered(setting, self._named.get(setting))
            if not found:
                raise UsageError(f"[notify] names {name} in `to`, but {setting} is not set")
            targets |= found
        return targets

    def heartbeat(self, name: str | None) -> SecretStr | None:
        """The URL of the heartbeat with this name, or else BATCHLIC_HEARTBEAT_URL.

        Raises UsageError for a name without a URL, and for a URL that is malformed or not encrypted.
        """
        setting = f"{_HEARTBEAT_URL}{name.upper()}" if name else "BATCHLIC_HEARTBEAT_URL"
        url = self._named.get(setting) if name else self.heartbeat_url
        if not (url and url.get_secret_value()):
            if name:
                raise UsageError(f"[notify] names the heartbeat {name}, but {setting} is not set")
            return None
        refuse_unencrypted(setting, url.get_secret_value())
        return url

    def secrets(self) -> list[str]:
        """Every secret, for the redaction of logs. Raises UsageError as `credentials` for a command."""
        self._run_commands(Credentials.__dataclass_fields__)
        fields = (name for name in type(self).model_fields if name != "store")
        values = [getattr(self, name) for name in fields] + list(self._named.values())
        secrets = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
        secrets += self._secrets_of_store()
        lists = (secret.split() for secret in secrets if "://" in secret)
        return [*secrets, *(url for urls in lists if len(urls) > 1 for url in urls)]

    def _secrets_of_store(self) -> list[str]:
        """The URL with its password; without one, logs may show it."""
        if self.store is None or self._store_name is None:
            return []
        from batchlic.database import postgresql  # noqa: PLC0415 - SQLAlchemy

        return postgresql.secrets_of(self.store.get_secret_value())


class _Loaded(Settings):
    """The settings of a command."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings' signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment, before the values of files, which are given."""
        return env_settings, init_settings


def load_settings(profile: str | None = None) -> Settings:
    """Read environment, `.env` and the credentials file; the environment wins over files.

    `profile` is the name of a profile; None: the one that BATCHLIC_PROFILE names. Raises UsageError for a
    wrong or unsafe setting.
    """
    files = [file for file in (Path(".env"), _credentials_file()) if file is not None and file.is_file()]
    _refuse_unknown(os.environ, "")
    values: dict[str, str] = {}
    for file in files:
        of_file = _values_of(file)
        _refuse_unknown(of_file, f"{file}: ")
        values |= {name.upper().removeprefix(PREFIX).lower(): value for name, value in of_file.items()}
    chosen = find_profile(Settings.model_fields, _FROM_COMMANDS, profile)
    if chosen is not None:
        _refuse_other_login(chosen)
        values = {name: value for name, value in values.items() if name not in _LOGIN} | dict(chosen.values)
    given = {f"{PREFIX}{name.upper()}": value for name, value in values.items()}
    given |= {name.upper(): value for name, value in os.environ.items()}
    of_files = {name: value for name, value in values.items() if name in Settings.model_fields}
    settings: Settings = _Loaded.model_validate(of_files)
    settings.remember_named_urls(given)
    settings.use(chosen)
    return settings


def _refuse_other_login(profile: Profile) -> None:
    """Raise UsageError if the environment sets a part of the login in another way than the profile."""
    given = {name.upper(): value for name, value in os.environ.items()}
    for name in _LOGIN:
        variable = f"{PREFIX}{name.upper()}"
        if variable in given and given[variable] != profile.values.get(name):
            raise UsageError(
                f"{variable} is set in the environment, and {PROFILE} (--profile) {profile.name} has a login "
                f"of its own: unset {variable}, or write it into the profile"
            )


def _is_named_url(setting: str) -> bool:
    return any(
        setting.startswith(beginning) and setting != beginning for beginning in (_NOTIFY_URL, _HEARTBEAT_URL)
    )


def _numbered(setting: str, urls: SecretStr | None) -> dict[str, SecretStr]:
    """Each URL of a setting by what to call it: the setting, with a number if there are several."""
    each = urls.get_secret_value().split() if urls else []
    if len(each) == 1:
        return {setting: SecretStr(each[0])}
    return {f"{setting} #{number}": SecretStr(url) for number, url in enumerate(each, start=1)}


def _absolute(state_dir: str | None) -> str | None:
    """The setting, with `~` replaced; None if it is empty. Raises UsageError for a relative path."""
    if not state_dir:
        return None
    refuse_odd_characters(f"{PREFIX}STATE_DIR", state_dir)
    if is_remote(state_dir):
        raise UsageError(
            f"{PREFIX}STATE_DIR: can't be in an object store, because a ledger needs a disk: "
            "give an absolute path here, and name each run folder with --run-dir"
        )
    folder = os.path.expanduser(state_dir)  # noqa: PTH111 - no error without a home folder
    if not os.path.isabs(folder):  # noqa: PTH117
        raise UsageError(
            f"{PREFIX}STATE_DIR: {state_dir} is a relative path, so each folder would have its own ledger: "
            "give an absolute path"
        )
    return folder


def _credentials_file() -> Path | None:
    name = os.environ.get(CREDENTIALS_FILE)
    if name is None:
        return None
    if not Path(name).is_file():
        raise UsageError(f"{CREDENTIALS_FILE}: there is no file {name}")
    return Path(name)


def _values_of(file: Path) -> dict[str, str]:
    """The settings in a file, by name. `${…}` in a value stands for itself: secrets are not templates.

    A quoted value loses one line feed at its end, which is how files end.
    """
    try:
        text, mode = file.read_text(encoding="utf-8-sig"), file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"{file}: can't be read: {reason}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO) and PREFIX in text:
        raise UsageError(f"{file}: other users may read these settings: chmod 600 {file}")
    values = dotenv_values(stream=StringIO(text), interpolate=False)
    return {
        name: value.removesuffix("\n").removesuffix("\r")
        for name, value in values.items()
        if value is not None and name.upper().startswith(PREFIX)
    }


def _refuse_unknown(names: Iterable[str], where: str) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {CREDENTIALS_FILE}
    for name in map(str.upper, names):
        if (
            name.startswith(PREFIX)
            and name not in known
            and not _is_named_url(name)
            and not is_profile_setting(name)
        ):
            near = get_close_matches(name, known, n=1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise UsageError(f"{where}{name}: there is no such setting{hint}")
