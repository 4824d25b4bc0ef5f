"""Odd names, closed folders, cut files and Ctrl-C end with an exit code that says what is wrong."""

import os
import pty
import select
import shutil
import sys
from pathlib import Path

import pytest

from batchlic.sandbox.config import SandboxConfig
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    Ended,
    batchlic,
    bound,
    environment_of,
    fleet,
    imei,
    keys,
)
from tests.forking import serving

KEY_REPEAT = 3.0
"""Seconds after which a key is pressed again."""

LICENSE = ("--account", ACCOUNT, "--sku", FLEXIBLE)
ODD = os.fsdecode(b"caf\xe9")
"""A name in ISO 8859-1, which is not UTF-8."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("finished")
    fleet(home / "fleet.csv", 5, "not an IMEI")
    with serving(SandboxConfig()) as url:
        ended = batchlic(
            "assign",
            "fleet.csv",
            *LICENSE,
            "--run-dir",
            "run",
            "--new-ledger",
            settings=keys(url),
            cwd=home,
        )
    assert ended.code == 3, ended.err
    return home


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path, dirs_exist_ok=True)


def assert_told(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended.err
    assert all(word in ended.err for word in words), ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    "command",
    [
        ("status", ODD),
        ("audit", ODD, "--verify"),
        ("audit", ODD, "--device", imei(1)),
        ("export", "run", "--to", ODD),
        ("plan", f"{ODD}.csv", *LICENSE),
        ("plan", "fleet.csv", *LICENSE, "--run-dir", ODD),
        ("plan", "fleet.csv", *LICENSE, "--ledger", f"{ODD}.db"),
        ("ledger", "show", "--ledger", f"{ODD}.db"),
        ("ledger", "import", ODD),
        ("reconcile", "run", "--store", f"{ODD}.db"),
        ("run", f"{ODD}.toml"),
    ],
    ids=lambda command: command[0],
)
def test_a_name_that_is_not_utf_8_is_refused(home: Path, command: tuple[str, ...]) -> None:
    fleet(home / f"{ODD}.csv", 5)
    (home / ODD).mkdir()
    assert_told(batchlic(*command, settings=keys("http://127.0.0.1:9/api"), cwd=home), 2, "is not UTF-8")


@pytest.mark.parametrize(
    "command",
    [("status", "run"), ("plan", "fleet.csv", *LICENSE, "--run-dir", "next"), ("ledger", "show"), ("audit",)],
)
def test_a_current_folder_whose_name_is_not_utf_8_is_refused(home: Path, command: tuple[str, ...]) -> None:
    inside = home / ODD
    inside.mkdir()
    (home / "run").rename(inside / "run")
    (home / "fleet.csv").rename(inside / "fleet.csv")
    more = ("--device", imei(1)) if command == ("audit",) else ()
    settings = {"BATCHLIC_STATE_DIR": "", "XDG_STATE_HOME": str(inside)}
    assert_told(batchlic(*command, *more, settings=settings, cwd=inside), 2, "is not UTF-8")


@pytest.mark.parametrize("given", ["inventories", "inventories/*.csv", "inventories/**/*"])
def test_an_inventory_found_under_a_name_that_is_not_utf_8_is_refused(home: Path, given: str) -> None:
    (home / "inventories").mkdir()
    fleet(home / "inventories" / f"{ODD}.csv", 5)
    fleet(home / "inventories" / "good.csv", 5)
    assert_told(batchlic("plan", given, *LICENSE, "--run-dir", "next", cwd=home), 2, "is not UTF-8")


@pytest.mark.parametrize(
    "command",
    [
        ("plan", "loop", *LICENSE, "--run-dir", "next"),
        ("plan", "fleet.csv", *LICENSE, "--run-dir", "loop"),
        ("run", "loop"),
        ("status", "loop"),
        ("export", "loop"),
        ("ledger", "show", "--ledger", "loop"),
        ("ledger", "import", "loop"),
        ("reconcile", "run", "--store", "loop"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_link_to_itself_is_refused(home: Path, command: tuple[str, ...]) -> None:
    (home / "loop").symlink_to("loop")
    assert_told(batchlic(*command, settings=keys("http://127.0.0.1:9/api"), cwd=home), 2, "loop")


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"{ODD}.parquet", f"{ODD}"])
def test_odd_names_beside_a_run_do_not_disturb_it(home: Path, name: str) -> None:
    (home / "run" / name).write_bytes(b"")
    for command in (("status", "run"), ("audit", "run", "--verify"), ("audit", "run", "--device", imei(1))):
        assert_told(batchlic(*command, cwd=home), 0)


CLOSED = [
    ("plan", "closed/fleet.csv", *LICENSE, "--run-dir", "next"),
    ("plan", "closed", *LICENSE, "--run-dir", "next"),
    ("plan", "closed/*.csv", *LICENSE, "--run-dir", "next"),
    ("plan", "fleet.csv", *LICENSE, "--run-dir", "closed/next"),
    ("plan", "fleet.csv", *LICENSE, "--run-dir", "next", "--ledger", "closed/ledger.db"),
    ("run", "closed/job.toml"),
    ("status", "closed/run"),
    ("export", "run", "--to", "closed/out.csv"),
    ("export", "closed/run", "--what", "all"),
    ("audit", "closed", "--device", imei(1)),
    ("ledger", "show", "--ledger", "closed/ledger.db"),
    ("ledger", "import", "closed", "--ledger", "new.db"),
    ("ledger", "import", ".", "--ledger", "new.db"),
    ("ledger", "export", "--to", "closed/out.csv", "--ledger", "runs/ledger.db"),
    ("reconcile", "run", "--store", "closed/store.db"),
    ("callbacks", "unjudged", "--store", "closed/store.db"),
]


LISTED = [command for command in CLOSED if {"closed", "closed/*.csv", "."} & set(command)]
"""The commands that list the folder, which 0o400 allows; to the others, both modes are the same."""


@pytest.mark.parametrize(
    ("mode", "command"),
    [*((0o000, command) for command in CLOSED), *((0o400, command) for command in LISTED)],
    ids=lambda given: " ".join(given[:2]) if isinstance(given, tuple) else oct(given),
)
def test_a_folder_without_access_is_said(home: Path, command: tuple[str, ...], mode: int) -> None:
    (home / "closed").mkdir()
    (home / "closed" / "results.parquet").write_bytes((home / "run" / "results.parquet").read_bytes())
    (home / "closed").chmod(mode)
    ended = bound(*command, settings=keys("http://127.0.0.1:9/api"), cwd=home)
    (home / "closed").chmod(0o700)
    assert ended.code in {2, 6}, ended.err
    assert "Traceback" not in ended.err


EXPORT, EXPORT_ALL = ("export", "run"), ("export", "run", "--what", "all")
STATUS, VERIFY = ("status", "run"), ("audit", "run", "--verify")
NEEDED_BY: dict[str, list[tuple[str, ...]]] = {
    "rejects": [EXPORT, EXPORT_ALL, VERIFY],
    "plan": [EXPORT_ALL, STATUS, VERIFY],
    "outcomes": [EXPORT_ALL, STATUS, VERIFY],
    "results": [VERIFY],
    "audit": [VERIFY],
}
"""The commands that need a file of a run."""


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        *(("plan", kept) for kept in (0.0, 0.5, 0.99)),
        *zip(("rejects", "outcomes", "results", "audit"), (0.0, 0.5, 0.99, 0.0), strict=True),
    ],
)
def test_a_cut_parquet_file_is_said(home: Path, name: str, kept: float) -> None:
    if name == "outcomes":
        (home / "run" / "outcomes.parquet").write_bytes((home / "run" / "rejects.parquet").read_bytes())
    path = home / "run" / f"{name}.parquet"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    for command in (EXPORT, EXPORT_ALL, STATUS, VERIFY):
        ended = batchlic(*command, cwd=home)
        assert ended.code in {0, 2, 3}, ended.err
        assert "Traceback" not in ended.err
        if command in NEEDED_BY[name]:
            assert (ended.code != 0, f"{name}.parquet" in ended.out + ended.err) == (True, True), (
                command,
                ended.err,
            )


def answered_on_a_terminal(
    keystrokes: bytes, *command: str, settings: dict[str, str], cwd: Path
) -> tuple[int, str]:
    """Exit code and output of a command that gets these keystrokes once it asks, and again while it waits."""
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover - another process
        os.chdir(cwd)
        program = [sys.executable, "-m", "batchlic", *command]
        os.execve(program[0], program, environment_of(settings, cwd))  # noqa: S606
    shown = b""
    while True:
        if select.select([terminal], [], [], KEY_REPEAT)[0]:
            try:
                shown += os.read(terminal, 4096)
            except OSError:  # the process has ended
                break
            is_due = shown.endswith(b"[y/N]: ")
        else:
            is_due = b"[y/N]" in shown  # a signal just before the terminal is read does not end the reading
        if is_due:
            os.write(terminal, keystrokes)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode(errors="replace")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*use of forkpty:DeprecationWarning")
@pytest.mark.parametrize(
    ("keystrokes", "code", "said"),
    [
        (b"\x03", 6, "stopped by SIGINT"),
        (b"\x03\x03\x03", 6, "stopped by SIGINT"),
        (b"y\x03", 6, "stopped by SIGINT"),
        (b"\x1c", 6, "stopped by SIGQUIT"),
        (b"\x04", 4, "nothing was sent"),
        (b"\xff\xfe\nn\n", 4, "nothing was sent"),
    ],
    ids=[
        "Ctrl-C",
        "Ctrl-C three times",
        "Ctrl-C after a letter",
        "Ctrl-backslash",
        "Ctrl-D",
        "bytes that are not UTF-8",
    ],
)
def test_keys_that_end_the_question_are_no_traceback(
    home: Path, keystrokes: bytes, code: int, said: str
) -> None:
    with serving(SandboxConfig()) as url:
        command = ("assign", "fleet.csv", *LICENSE, "--run-dir", "next", "--ledger", "new.db", "--new-ledger")
        ended, shown = answered_on_a_terminal(keystrokes, *command, settings=keys(url), cwd=home)
    assert (ended, said in shown, "Traceback" in shown) == (code, True, False), shown
