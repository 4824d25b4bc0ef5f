"""Profiles: several logins under names, whose secrets may come from commands; no error shows a secret."""

import os
import sys
from pathlib import Path

import pytest

from batchlic import profiles
from batchlic.errors import UsageError
from batchlic.sandbox.config import SandboxConfig
from batchlic.settings import load_settings
from tests.endtoend.program import ACCOUNT, FLEXIBLE, Ended, batchlic, fleet
from tests.forking import serving

EAST = """
[east]
base_url = "https://east.test/api"
client_id = "east-id"
client_secret = "planted-secret"
username = "east-user"
password = "planted-password"

[west-2]
access_token = "planted-west"
session_token = "planted-session"
"""
WORDS = [sys.executable, "-c"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's configuration folder without profiles, and no settings."""
    for name in [name for name in os.environ if name.upper().startswith("BATCHLIC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config" / "batchlic").mkdir(parents=True)
    return tmp_path


def write(home: Path, text: str = EAST, mode: int = 0o600) -> Path:
    path = home / "config" / "batchlic" / "profiles.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def password_of(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("BATCHLIC_PROFILE", name)
    password = load_settings().credentials().password
    assert password is not None
    return password.reveal()


def with_command(home: Path, code: str, *arguments: str) -> None:
    """A profile `vault` whose password is what a line of Python prints."""
    command = [*WORDS, code, *arguments]
    rest = 'client_id = "a"\nclient_secret = "b"\nusername = "c"\n'
    write(home, f"[vault]\n{rest}password_command = {command!r}\n")


def test_a_profile_has_its_own_login_and_carrier(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home)
    assert password_of("east", monkeypatch) == "planted-password"
    assert load_settings().base_url == "https://east.test/api"
    monkeypatch.setenv("BATCHLIC_PROFILE", "west-2")
    settings = load_settings()
    assert settings.base_url == "https://thingspace.verizon.com/api"
    assert settings.credentials().username is None
    assert "planted" not in f"{settings!r} {settings.credentials()!r}"


def test_without_a_profile_the_file_is_not_read(home: Path) -> None:
    write(home, "not toml", 0o644)
    assert load_settings().profile is None


def test_the_login_of_dotenv_is_not_mixed_with_that_of_a_profile(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home)
    (home / ".env").write_text("BATCHLIC_SESSION_TOKEN=other\nBATCHLIC_LISTENER_USERNAME=listener\n")
    (home / ".env").chmod(0o600)
    monkeypatch.setenv("BATCHLIC_PROFILE", "east")
    settings = load_settings()
    assert settings.session_token is None
    assert settings.listener_username is not None


@pytest.mark.parametrize("name", ["PASSWORD", "SESSION_TOKEN", "BASE_URL"])
def test_a_stray_variable_of_another_login_is_refused(
    home: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home)
    monkeypatch.setenv("BATCHLIC_PROFILE", "east")
    monkeypatch.setenv(f"BATCHLIC_{name}", "https://planted.test")
    with pytest.raises(UsageError, match=f"BATCHLIC_{name} is set in the environment.*east") as error:
        load_settings()
    assert "planted" not in str(error.value)


def test_a_profile_can_be_in_the_environment_alone_or_complete_the_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"CLIENT_ID": "a", "CLIENT_SECRET": "b", "USERNAME": "c", "PASSWORD": "d"}.items():
        monkeypatch.setenv(f"BATCHLIC_PROFILE__NORTH_1__{name}", value)
    assert password_of("north-1", monkeypatch) == "d"
    write(home)
    monkeypatch.setenv("BATCHLIC_PROFILE__EAST__PASSWORD_COMMAND", f"{sys.executable} -c 'print(1+1)'")
    assert password_of("east", monkeypatch) == "2"


def test_a_variable_that_may_be_of_two_profiles_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home, f'{EAST}[west_2]\naccess_token = "other"\n')
    assert password_of("east", monkeypatch) == "planted-password"
    monkeypatch.setenv("BATCHLIC_PROFILE__WEST_2__SESSION_TOKEN", "of-which")
    monkeypatch.setenv("BATCHLIC_PROFILE", "west-2")
    with pytest.raises(UsageError, match=r"is for two profiles of .*, west-2 and west_2: rename one"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "mode", "error"),
    [
        (EAST, 0o640, "chmod 600"),
        (EAST, 0o604, "chmod 600"),
        (
            "[east]\npasword = 'planted'",
            0o600,
            r"\[east\] pasword: there is no such key; did you mean password",
        ),
        ("[east]\npassword = 7", 0o600, "password: give a text"),
        ("[east]\npassword = 'planted'\npassword_command = ['x']", 0o600, "not both"),
        ("[east]\npassword_command = []", 0o600, "give a command"),
        ("[east]\nbase_url_command = ['x']", 0o600, "no such key"),
        ("password = 'planted'", 0o600, "is in no profile"),
        ("[east", 0o600, "not a TOML file"),
        ("[north]\n[eats]", 0o600, "no such profile .*known: eats, north; did you mean eats"),
        ("[north]\n[south]", 0o600, "no such profile .*known: north, south"),
        ("", 0o600, "known: none"),
    ],
)
def test_a_wrong_file_is_an_error_that_says_what_to_do(
    home: Path, text: str, mode: int, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home, text, mode)
    monkeypatch.setenv("BATCHLIC_PROFILE", "east")
    with pytest.raises(UsageError, match=error) as raised:
        load_settings()
    assert "planted" not in str(raised.value)


def test_another_file_can_be_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home).rename(home / "mine.toml")
    monkeypatch.setenv("BATCHLIC_PROFILES_FILE", str(home / "mine.toml"))
    assert password_of("east", monkeypatch) == "planted-password"
    (home / "mine.toml").unlink()
    with pytest.raises(UsageError, match=r"there is no file .*mine\.toml"):
        load_settings()


def test_a_command_gives_the_secret_without_a_shell_and_runs_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"import sys; open({str(home / 'calls')!r}, 'a').write('x'); print(sys.argv[1])"
    with_command(home, code, "pla $HOME; `ls` nted ")
    monkeypatch.setenv("BATCHLIC_PROFILE", "vault")
    load_settings()
    assert not (home / "calls").exists()  # a command without a login does not ask the vault
    assert password_of("vault", monkeypatch) == "pla $HOME; `ls` nted "
    assert password_of("vault", monkeypatch).startswith("pla")
    assert (home / "calls").read_text() == "x"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (
            "import sys; print('planted'); sys.exit('the vault is locked: planted')",
            "code 1: the vault is locked",
        ),
        ("print()", "printed nothing"),
        ("import sys; sys.stdout.buffer.write(b'planted\\xff')", "not UTF-8"),
        ("import time; print('planted', flush=True); time.sleep(60)", "did not end within"),
    ],
)
def test_a_command_that_fails_shows_its_stderr_and_never_its_stdout(
    home: Path, code: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles, "COMMAND_TIMEOUT_S", 0.5)
    with_command(home, code)
    monkeypatch.setenv("BATCHLIC_PROFILE", "vault")
    with pytest.raises(UsageError, match=error) as raised:
        load_settings().credentials()
    assert "password_command" in str(raised.value)
    assert "planted" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_command_that_does_not_exist_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, "[vault]\npassword_command = ['/no/such/vault']\n")
    monkeypatch.setenv("BATCHLIC_PROFILE", "vault")
    with pytest.raises(UsageError, match="/no/such/vault can't be started: No such file"):
        load_settings().credentials()


@pytest.mark.slow
def test_commands_take_the_profile_and_resume_says_which_one(home: Path) -> None:
    fleet(home / "fleet.csv", 2)
    settings = {"XDG_CONFIG_HOME": str(home / "config")}

    def run(*arguments: str) -> Ended:
        return batchlic(*arguments, settings=settings, cwd=home)

    with serving(SandboxConfig()) as url:
        keys = "".join(
            f'{key} = "sandbox"\n' for key in ("client_id", "client_secret", "username", "password")
        )
        write(home, f'[east]\nbase_url = "{url}"\naccount = "{ACCOUNT}"\n{keys}')
        target = ("--sku", FLEXIBLE, "--run-dir", "runs/one")
        assert run("assign", "fleet.csv", *target, "--profile", "east").code == 0
        assert run("check", "--profile", "east").code == 0
        counts = run("subscriptions", "--profile", "east")
        assert (counts.code, "2" in counts.out) == (0, True)
        settings["BATCHLIC_BASE_URL"] = url
        settings |= dict.fromkeys(
            (f"BATCHLIC_{key.split(' ')[0].upper()}" for key in keys.splitlines()), "sandbox"
        )
        refused = run("resume", "one")
        assert (refused.code, "--profile east" in refused.err) == (2, True)
        assert run("resume", "one", "--profile", "east").code == 0
        unknown = run("resume", "one", "--profile", "eats")
        assert (unknown.code, "did you mean east" in unknown.err) == (2, True)
