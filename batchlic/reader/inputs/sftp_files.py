"""Opens files on SFTP servers, through fsspec and paramiko. Imported only if an address is read."""

import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote

import paramiko
from fsspec.implementations.sftp import SFTPFileSystem  # type: ignore[import-untyped]

from batchlic.errors import InventoryError
from batchlic.reader.inputs.addresses import AGAIN, SILENT, Address

_SYSTEM_HOST_KEYS = Path("/etc/ssh/ssh_known_hosts")

# Errors are raised, too: without a handler, Python would print what paramiko logs to stderr.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class _KnownServers(SFTPFileSystem):  # type: ignore[misc]
    """Files on servers whose host keys are known. fsspec alone accepts any key, or none."""

    def _connect(self) -> None:
        self.client = paramiko.SSHClient()
        self.client.load_system_host_keys()
        if _SYSTEM_HOST_KEYS.is_file():
            self.client.load_system_host_keys(str(_SYSTEM_HOST_KEYS))
        self.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            self.client.connect(self.host, **self.ssh_kwargs)
            self.ftp = self.client.open_sftp()
        except BaseException:
            self.client.close()
            raise


class _SftpFile:
    """An open file on an SFTP server."""

    notes: Sequence[str] = ()

    def __init__(self, name: str, timeout: float, file: paramiko.SFTPFile) -> None:
        self._name = name
        self._timeout = timeout
        self._file = file
        self.size = file.stat().st_size

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end. Raises InventoryError."""
        with _explained(self._name, self._timeout):
            return self._file.read(size)


@contextmanager
def opened(address: Address, timeout: float) -> Iterator[_SftpFile]:
    """Open the file at an sftp address. Raises InventoryError."""
    with _explained(address.shown, timeout):
        files = _connected(address, timeout)
    try:
        with _explained(address.shown, timeout):
            stream = files.open(_path(address), "rb")
            file = _SftpFile(address.shown, timeout, stream)
        yield file
        with suppress(OSError, EOFError, paramiko.SSHException):
            stream.close()
    finally:
        files.client.close()


def _connected(address: Address, timeout: float) -> _KnownServers:
    parts = address.parts
    has_password = parts.password is not None
    files = _KnownServers(
        parts.hostname,
        port=parts.port or 22,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password is not None else None,
        look_for_keys=not has_password,
        allow_agent=not has_password,
        timeout=timeout,
        banner_timeout=timeout,
        auth_timeout=timeout,
        channel_timeout=timeout,
        skip_instance_cache=True,
    )
    if channel := files.ftp.get_channel():
        channel.settimeout(timeout)
    return files


def _path(address: Address) -> str:
    """The path on the server: absolute, or below the home folder if it begins with /~/, as curl has it."""
    path = unquote(address.parts.path)
    return path.removeprefix("/~/")


@contextmanager
def _explained(name: str, timeout: float) -> Iterator[None]:
    """Raise InventoryError for an error of the server or the network."""
    try:
        yield
    except (paramiko.SSHException, OSError, EOFError, ValueError) as error:
        advice = next(advice for kind, advice in _ADVICE.items() if isinstance(error, kind))
        if isinstance(error, paramiko.SSHException):
            advice = next((advice for text, advice in _TEXTS.items() if text in str(error)), advice)
        reason = type(error).__name__
        raise InventoryError(f"{name}: {advice.format(timeout=timeout, reason=reason)}") from None


_LOGIN = "the server refuses the login: check the user name, and the keys in ~/.ssh or in the agent"
_TEXTS = {
    "not found in known_hosts": (
        "the server's host key is not in ~/.ssh/known_hosts: connect once with ssh, compare the key with the "
        "one that the server's administrator gives you, and accept it"
    ),
    "No authentication methods available": _LOGIN,
}
"""What to do, by a text of paramiko for errors that have no kind of their own."""
_ADVICE: dict[type[Exception], str] = {
    TimeoutError: SILENT,
    paramiko.BadHostKeyException: (
        "the server's host key is not the one in ~/.ssh/known_hosts: it may be another server. Compare the "
        "key with the one that the server's administrator gives you"
    ),
    paramiko.AuthenticationException: _LOGIN,
    FileNotFoundError: "there is no such file on the server: check the path",
    PermissionError: "the server denies access to this file: check its permissions there",
    socket.gaierror: "there is no such host: check the address and the network",
    paramiko.ssh_exception.NoValidConnectionsError: f"the server can't be reached: {AGAIN}",
    Exception: f"the connection broke ({{reason}}): {AGAIN}",
}
"""What to do, by the first kind of error that fits."""
