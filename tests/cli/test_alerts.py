"""The command line in a notification: what an operator pastes, without what nobody may see."""

import shlex

import pytest

from batchlic.cli.alerts import _command_line


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("postgresql://u:hunter2@host/db", "postgresql://u:[redacted]@host/db"),
        ("--store=postgresql://u:hunter2@host/db", "--store=postgresql://u:[redacted]@host/db"),
        ("postgresql://u:hunter2/p@ss:w@host/db", "postgresql://u:[redacted]@host/db"),
        ("postgresql://u:p%40hunter2@host", "postgresql://u:[redacted]@host"),
        ("postgresql://host/db?password=hunter2", "postgresql://host/db?password=[redacted]"),
        ("postgresql://host/db?sslpassword=hunter2&x=1", "postgresql://host/db?sslpassword=[redacted]&x=1"),
        ("postgresql://host:5432/db", "postgresql://host:5432/db"),
        ("my job.toml", "my job.toml"),
    ],
)
def test_f_a_message_shows_no_password_of_the_command_line(
    argument: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["batchlic", "run", argument])
    assert _command_line().endswith(f" && batchlic run {shlex.quote(shown)}")
