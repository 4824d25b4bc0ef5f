"""Settings come from the environment and from files that only the owner can read; errors show no secret."""

import os
from pathlib import Path

import pytest

from batchlic.carrier.credentials import Secret
from batchlic.errors import UsageError
from batchlic.settings import load_settings

PLANTED = {
    "BATCHLIC_CLIENT_ID": "planted-id",
    "BATCHLIC_CLIENT_SECRET": "planted-secret",
    "BATCHLIC_USERNAME": "planted-user",
    "BATCHLIC_PASSWORD": "planted-password",
    "BATCHLIC_ACCESS_TOKEN": "planted-access",
    "BATCHLIC_SESSION_TOKEN": "planted-session",
}


@pytest.fixture(autouse=True)
def empty_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings, in a folder of its own."""
    for name in [name for name in os.environ if name.upper().startswith("BATCHLIC_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def dotenv(path: Path, mode: int = 0o600, **values: str) -> Path:
    path.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    path.chmod(mode)
    return path


def test_callbacks_are_kept_in_the_store_unless_another_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UsageError, match="no store of callbacks"):
        load_settings().callback_store(None)
    monkeypatch.setenv("BATCHLIC_STORE", "postgresql://me:planted@db.example/licenses")
    assert load_settings().callback_store(None) == "postgresql://me@db.example/licenses"
    assert load_settings().callback_store("own.db") == "own.db"
    monkeypatch.setenv("BATCHLIC_LISTENER_STORE", "callbacks.db")
    assert load_settings().callback_store(None) == "callbacks.db"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    credentials = settings.credentials()
    assert credentials.password is not None
    assert credentials.password.reveal() == "planted-password"
    assert sorted(settings.secrets()) == sorted(PLANTED.values())


def test_f_neither_settings_nor_credentials_show_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    shown = f"{settings!r} {settings} {settings.credentials()!r} {Secret('planted')!s}"
    assert "planted" not in shown


def test_the_environment_beats_the_credentials_file_beats_dotenv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dotenv(Path(".env"), BATCHLIC_USERNAME="a", BATCHLIC_PASSWORD="a", BATCHLIC_CLIENT_ID="a")
    secrets = dotenv(tmp_path / "secrets", BATCHLIC_USERNAME="b", BATCHLIC_PASSWORD="b")
    monkeypatch.setenv("BATCHLIC_CREDENTIALS_FILE", str(secrets))
    monkeypatch.setenv("BATCHLIC_USERNAME", "c")
    assert load_settings().secrets() == ["a", "c", "b"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_f_a_settings_file_that_others_can_read_is_refused(mode: int) -> None:
    dotenv(Path(".env"), mode, BATCHLIC_PASSWORD="planted")
    with pytest.raises(UsageError, match=r"^\.env: .*chmod 600 \.env") as error:
        load_settings()
    assert "planted" not in str(error.value)


def test_a_dotenv_of_other_programs_is_ignored() -> None:
    dotenv(Path(".env"), 0o644, DATABASE_URL="x")
    assert load_settings().secrets() == []


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_an_unknown_setting_is_refused_with_a_suggestion(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if place == ".env":
        dotenv(Path(".env"), BATCHLIC_PASWORD="planted")
    else:
        monkeypatch.setenv("BATCHLIC_PASWORD", "planted")
    with pytest.raises(UsageError, match=r"BATCHLIC_PASWORD: .*did you mean BATCHLIC_PASSWORD") as error:
        load_settings()
    assert "planted" not in str(error.value)


def test_listener_settings_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHLIC_LISTENER_USERNAME", "somebody")
    load_settings()


def test_a_missing_or_unreadable_credentials_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHLIC_CREDENTIALS_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=r"BATCHLIC_CREDENTIALS_FILE: there is no file .*nowhere"):
        load_settings()
    (tmp_path / "nowhere").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="nowhere: can't be read: not UTF-8"):
        load_settings()


@pytest.mark.parametrize(
    "address",
    [
        *("ftp://host", "host/api", "http://carrier.example/api", "https://user:planted@host/api", ""),
        *("https://host/api ", " https://host/api", "https://host/api\n", "https://host\u200b/api"),
    ],
)
def test_f_an_invalid_or_unsafe_base_url_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHLIC_BASE_URL", address)
    with pytest.raises(UsageError, match="BATCHLIC_BASE_URL") as error:
        load_settings()
    assert "planted" not in str(error.value)


def test_a_trailing_slash_of_the_base_url_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHLIC_BASE_URL", "https://carrier.example/api/")
    assert load_settings().base_url == "https://carrier.example/api"


def test_missing_credentials_are_named() -> None:
    with pytest.raises(UsageError, match="BATCHLIC_CLIENT_ID and BATCHLIC_CLIENT_SECRET"):
        load_settings().credentials()


SETTINGS = tuple(PLANTED)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n"])
def test_a_line_feed_at_the_end_of_a_secret_is_named_with_its_setting(
    name: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other, value in PLANTED.items():
        monkeypatch.setenv(other, value)
    monkeypatch.setenv(name, PLANTED[name] + ending)
    with pytest.raises(UsageError, match=f"^{name} ends with a line feed: remove it") as error:
        load_settings().credentials()
    assert "planted" not in str(error.value)


@pytest.mark.parametrize(
    ("odd", "called"),
    [
        ("\t", r"U\+0009 \(a control character\)"),
        ("\x7f", r"U\+007F"),
        ("\x1b[31m", r"U\+001B"),
        ("\u200b", r"U\+200B \(ZERO WIDTH SPACE\)"),
        ("\ufeff", r"U\+FEFF"),
        ("\xa0", r"U\+00A0 \(NO-BREAK SPACE\)"),
        ("\u2028", r"U\+2028"),
        ("\udce9", "a byte that is not UTF-8"),
        ("a\nb", r"U\+000A"),
    ],
)
@pytest.mark.parametrize("name", ["BATCHLIC_PASSWORD", "BATCHLIC_CLIENT_SECRET"])
def test_an_invisible_character_in_a_secret_is_named(
    name: str, odd: str, called: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other, value in PLANTED.items():
        monkeypatch.setenv(other, value)
    monkeypatch.setenv(name, f"plan{odd}ted")
    with pytest.raises(UsageError, match=f"{name} contains {called}") as error:
        load_settings().credentials()
    assert "plan" not in str(error.value)


@pytest.mark.parametrize("name", ["BATCHLIC_CLIENT_ID", "BATCHLIC_CLIENT_SECRET"])
@pytest.mark.parametrize("text", ["clé", "key€", "密"])
def test_the_key_must_be_ascii_because_oauth_allows_nothing_else(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other, value in {**PLANTED, name: text}.items():
        monkeypatch.setenv(other, value)
    with pytest.raises(UsageError, match=f"{name} contains .*OAuth allows ASCII only"):
        load_settings().credentials()


@pytest.mark.parametrize("password", ["pass word", "pä€ß", "a:b#c", "${HOME}", "$(id)", '"', "a=b"])
def test_a_password_may_have_any_visible_character(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other, value in {**PLANTED, "BATCHLIC_PASSWORD": password}.items():
        monkeypatch.setenv(other, value)
    given = load_settings().credentials().password
    assert given is not None
    assert given.reveal() == password


def test_an_odd_character_in_the_secrets_of_the_listener_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHLIC_LISTENER_USERNAME", "user")
    monkeypatch.setenv("BATCHLIC_LISTENER_PASSWORD", "planted\n")
    with pytest.raises(UsageError, match=r"^BATCHLIC_LISTENER_PASSWORD ends with a line feed"):
        load_settings().access()


@pytest.mark.parametrize("value", ["${HOME}", "a${BATCHLIC_USERNAME}b", "$HOME", "${X:-y}", "$$", "a\\$b"])
@pytest.mark.parametrize("quote", ["", "'"])
def test_a_dollar_in_a_file_stands_for_itself(value: str, quote: str) -> None:
    dotenv(Path(".env"), BATCHLIC_PASSWORD=f"{quote}{value}{quote}")
    assert load_settings().secrets() == [value]


@pytest.mark.parametrize("text", ["BATCHLIC_PASSWORD=secret\n", "BATCHLIC_PASSWORD='secret\n'\n"])
@pytest.mark.parametrize("change", [("", ""), ("\n", "\r\n"), ("BATCHLIC", "\ufeffBATCHLIC"), ("\n", "")])
def test_how_a_file_ends_its_lines_is_no_part_of_a_secret(text: str, change: tuple[str, str]) -> None:
    file = Path(".env")
    file.write_bytes(text.replace(*change).encode())
    file.chmod(0o600)
    assert load_settings().secrets() == ["secret"]


def targets(names: list[str] | None) -> dict[str, str]:
    return {name: url.get_secret_value() for name, url in load_settings().notify_targets(names).items()}


def test_urls_of_notifications_are_separated_by_whitespace_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = dotenv(
        tmp_path / "file", BATCHLIC_NOTIFY_URL_OPS="json://file", BATCHLIC_NOTIFY_URL_CHAT="json://c"
    )
    monkeypatch.setenv("BATCHLIC_CREDENTIALS_FILE", str(files))
    monkeypatch.setenv("BATCHLIC_NOTIFY_URLS", " json://a\n json://b ")
    monkeypatch.setenv("BATCHLIC_NOTIFY_URL_OPS", "json://environment")
    assert targets(None) == {"BATCHLIC_NOTIFY_URLS #1": "json://a", "BATCHLIC_NOTIFY_URLS #2": "json://b"}
    named = {"BATCHLIC_NOTIFY_URL_OPS": "json://environment", "BATCHLIC_NOTIFY_URL_CHAT": "json://c"}
    assert targets(["ops", "Chat"]) == named
    assert targets([]) == {}
    assert set(named.values()) | {"json://a", "json://b"} <= set(load_settings().secrets())


def test_a_name_without_a_url_names_the_setting() -> None:
    with pytest.raises(UsageError, match="names ops in `to`, but BATCHLIC_NOTIFY_URL_OPS is not set"):
        targets(["ops"])
    with pytest.raises(UsageError, match="the heartbeat fleet, but BATCHLIC_HEARTBEAT_URL_FLEET is not set"):
        load_settings().heartbeat("fleet")


@pytest.mark.parametrize(
    "url", ["https://hc.example/planted", "http://127.0.0.1:8000/planted", "http://[::1]/p"]
)
def test_a_heartbeat_is_encrypted_or_stays_on_this_machine(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHLIC_HEARTBEAT_URL_FLEET", url)
    found = load_settings().heartbeat("fleet")
    assert found is not None
    assert found.get_secret_value() == url
    assert load_settings().heartbeat(None) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://hc.example/planted",
        "planted",
        "ftp://planted",
        "https://a/planted https://b",
        "https:///planted",
    ],
)
def test_f_a_heartbeat_that_is_not_encrypted_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHLIC_HEARTBEAT_URL", url)
    with pytest.raises(
        UsageError, match=r"^BATCHLIC_HEARTBEAT_URL: give one URL that begins with https"
    ) as error:
        load_settings().heartbeat(None)
    assert "planted" not in str(error.value)


def test_a_setting_like_that_of_a_url_is_refused_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHLIC_NOTIFY_URL", "json://planted")
    with pytest.raises(UsageError, match="did you mean BATCHLIC_NOTIFY_URLS") as error:
        load_settings()
    assert "planted" not in str(error.value)
