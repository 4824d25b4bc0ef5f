"""Inventories on SFTP servers are read from a real server on loopback."""

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import paramiko
import pytest
from paramiko.sftp import SFTP_EOF, SFTP_NO_SUCH_FILE, SFTP_PERMISSION_DENIED

from batchlic.errors import InventoryError
from batchlic.reader import ReadOptions
from tests.reader.builders import ACCOUNT, SKU, csv_of, imei, plan_files
from tests.reader.test_formats import CSV, DEVICES, FORMATS

QUICK = ReadOptions(account=ACCOUNT, sku=SKU, download_timeout=5)
KEY = paramiko.ECDSAKey.generate()


class Login(paramiko.ServerInterface):
    """Accepts one user with one password."""

    def check_auth_password(self, username: str, password: str) -> int:
        known = (username, password) == ("fleet", "s3/cr3t")
        return paramiko.common.AUTH_SUCCESSFUL if known else paramiko.common.AUTH_FAILED

    def get_allowed_auths(self, _: str) -> str:
        return "password"

    def check_channel_request(self, _: str, __: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED


class Handle(paramiko.SFTPHandle):
    """An open file. Its announced size, and what happens after its last byte, can be wrong."""

    def __init__(self, path: Path, server: "Sftp") -> None:
        super().__init__(os.O_RDONLY)
        self._path, self._server = path, server

    def stat(self) -> paramiko.SFTPAttributes:
        attributes = paramiko.SFTPAttributes.from_stat(self._path.stat())
        attributes.st_size = (attributes.st_size or 0) + self._server.announced_more
        return attributes

    def read(self, offset: int, length: int) -> bytes | int:
        content = self._path.read_bytes()[offset : offset + length]
        if not content and self._server.breaks:
            self._server.transport.close()
        return content or SFTP_EOF


class Files(paramiko.SFTPServerInterface):
    """The files below a folder."""

    def __init__(self, _: paramiko.ServerInterface, served: "Sftp") -> None:
        self._server = served

    def open(self, path: str, _: int, __: paramiko.SFTPAttributes) -> paramiko.SFTPHandle | int:
        file = self._server.folder / path.lstrip("/")
        if path.endswith("secret.csv"):
            return SFTP_PERMISSION_DENIED
        return Handle(file, self._server) if file.is_file() else SFTP_NO_SUCH_FILE


@dataclass
class Sftp:
    """A server for one connection."""

    folder: Path
    port: int = 0
    announced_more: int = 0
    breaks: bool = False

    def address(self, path: str, login: str = "fleet:s3%2Fcr3t@") -> str:
        return f"sftp://{login}127.0.0.1:{self.port}{path}"

    def serve(self, listening: socket.socket) -> None:
        connection, _ = listening.accept()
        self.transport = paramiko.Transport(connection)
        self.transport.add_server_key(KEY)
        self.transport.set_subsystem_handler("sftp", paramiko.SFTPServer, Files, served=self)
        try:
            self.transport.start_server(server=Login())
        except (paramiko.SSHException, EOFError, OSError):
            self.transport.close()  # the client does not trust the key


@contextmanager
def serving(folder: Path) -> Iterator[Sftp]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Sftp(folder, listening.getsockname()[1])
        thread = threading.Thread(target=server.serve, args=(listening,))
        thread.start()
        yield server
        thread.join()
        server.transport.close()
        server.transport.join()


def trust(home: Path, server: Sftp, key: paramiko.PKey = KEY) -> None:
    (home / ".ssh").mkdir()
    line = f"[127.0.0.1]:{server.port} {key.get_name()} {key.get_base64()}\n"
    (home / ".ssh" / "known_hosts").write_text(line)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path


@pytest.fixture
def sftp(tmp_path: Path) -> Iterator[Sftp]:
    folder = tmp_path / "served"
    folder.mkdir()
    with serving(folder) as server:
        yield server


def refusal(folder: Path, name: str) -> str:
    with pytest.raises(InventoryError) as caught:
        plan_files(folder, name, options=QUICK)
    assert "cr3t" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["comma", "gzip", "zip", "parquet", "workbook"])
def test_a_file_is_read_over_sftp(tmp_path: Path, sftp: Sftp, kind: str) -> None:
    trust(tmp_path, sftp)
    (sftp.folder / "süd flotte").write_bytes(FORMATS[kind])
    planned = plan_files(tmp_path, sftp.address("/s%C3%BCd%20flotte"))
    assert planned.devices == DEVICES
    assert planned.plan["source"].unique().to_list() == [f"sftp://127.0.0.1:{sftp.port}/s%C3%BCd%20flotte"]
    assert planned.summary.notes == ()


def test_a_path_below_the_home_folder_is_relative(tmp_path: Path, sftp: Sftp) -> None:
    trust(tmp_path, sftp)
    (sftp.folder / "fleet.csv").write_bytes(CSV)
    assert plan_files(tmp_path, sftp.address("/~/fleet.csv")).devices == DEVICES


@pytest.mark.slow
def test_a_large_file_is_read_whole(tmp_path: Path, sftp: Sftp) -> None:
    trust(tmp_path, sftp)
    (sftp.folder / "fleet.csv").write_bytes(csv_of((imei(n), "") for n in range(70_000)))
    assert plan_files(tmp_path, sftp.address("/fleet.csv")).summary.planned == 70_000


def test_a_server_with_an_unknown_key_is_refused(tmp_path: Path, sftp: Sftp) -> None:
    assert "host key is not in ~/.ssh/known_hosts" in refusal(tmp_path, sftp.address("/fleet.csv"))


def test_a_server_with_another_key_is_refused(tmp_path: Path, sftp: Sftp) -> None:
    trust(tmp_path, sftp, paramiko.ECDSAKey.generate())
    assert "host key is not the one in" in refusal(tmp_path, sftp.address("/fleet.csv"))


@pytest.mark.parametrize("login", ["fleet:wr0ng-cr3t@", "other:s3%2Fcr3t@", "fleet@"])
def test_a_refused_login_says_what_to_check(tmp_path: Path, sftp: Sftp, login: str) -> None:
    trust(tmp_path, sftp)
    assert "refuses the login" in refusal(tmp_path, sftp.address("/fleet.csv", login))


@pytest.mark.parametrize(
    ("path", "advice"), [("/nowhere.csv", "no such file on the server"), ("/secret.csv", "denies access")]
)
def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path, sftp: Sftp, path: str, advice: str) -> None:
    trust(tmp_path, sftp)
    assert advice in refusal(tmp_path, sftp.address(path))


@pytest.mark.parametrize("more", [1, -1])
def test_a_file_of_another_size_than_announced_is_refused(tmp_path: Path, sftp: Sftp, more: int) -> None:
    trust(tmp_path, sftp)
    (sftp.folder / "fleet.csv").write_bytes(CSV)
    sftp.announced_more = more
    assert "cut off, or changed" in refusal(tmp_path, sftp.address("/fleet.csv"))
    assert not (tmp_path / "plan.parquet").exists()


def test_a_connection_that_breaks_is_an_error(
    tmp_path: Path, sftp: Sftp, capfd: pytest.CaptureFixture[str]
) -> None:
    trust(tmp_path, sftp)
    (sftp.folder / "fleet.csv").write_bytes(CSV)
    sftp.breaks = True
    assert "the connection broke" in refusal(tmp_path, sftp.address("/fleet.csv"))
    assert capfd.readouterr().err == ""
    assert logging.getLogger("paramiko").handlers


def test_a_port_without_a_server_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"sftp://u:s3cr3t@127.0.0.1:{port}/fleet.csv"
    assert "the server can't be reached" in refusal(tmp_path, address)
