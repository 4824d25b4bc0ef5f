"""The wheel and the sdist: what is in them, and that they run where there is no checkout."""

import ast
import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LOCK = ROOT / ".ci" / "requirements.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
UNREACHABLE = re.compile(
    r"network was disabled|client error \(Connect\)|dns error|[Cc]ould not connect|operation timed out"
)
"""What uv says if it can't reach an index."""
ENVIRONMENT = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


class Built:
    """The artifacts of this checkout, and an environment with the wheel and its main dependencies alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = folder / "environment"
        self.bin = self.environment / "bin"
        self.outside = folder / "outside"

    @property
    def sdist(self) -> Path:
        [found] = (self.folder / "dist").glob("*.tar.gz")
        return found

    @property
    def wheel(self) -> Path:
        [found] = (self.folder / "dist").glob("*.whl")
        return found

    @property
    def wheel_of_sdist(self) -> Path:
        [found] = (self.folder / "again").glob("*.whl")
        return found

    def make(self) -> None:
        """Build the sdist and the wheel, and the wheel once more from the unpacked sdist."""
        self.outside.mkdir()
        _build(ROOT, self.folder / "dist", "sdist", "wheel")
        with tarfile.open(self.sdist) as archive:
            archive.extractall(self.folder / "unpacked", filter="data")
        [unpacked] = (self.folder / "unpacked").iterdir()
        _build(unpacked, self.folder / "again", "wheel")

    def install(self) -> None:
        """Install the wheel into an empty environment, with the versions and hashes of the lock."""
        uv = [sys.executable, "-m", "uv"]
        self._run(*uv, "venv", "--quiet", "--python", sys.executable, str(self.environment))
        options = ["--quiet", "--link-mode", "symlink", "--constraints", str(LOCK)]
        python = ["--python", str(self.bin / "python")]
        done = self._run(*uv, "pip", "install", *options, *python, str(self.wheel), check=False)
        if done.returncode and UNREACHABLE.search(done.stderr):
            (self.folder / "unreachable").touch()
        else:
            assert done.returncode == 0, done.stderr

    def batchlic(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run(str(self.bin / "batchlic"), *arguments, check=False)

    def _run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        inherited = {**os.environ} if command[0] == sys.executable else ENVIRONMENT
        return subprocess.run(
            command, cwd=self.outside, env=inherited, capture_output=True, text=True, check=check
        )


def _build(source: Path, target: Path, *kinds: str) -> None:
    arguments = [word for kind in kinds for word in ("-t", kind)]
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(target), *arguments]
    subprocess.run(command, cwd=source, check=True, capture_output=True)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built once, also if several processes of pytest-xdist run these tests."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    made = Built(shared / "packaging")
    with (shared / "packaging.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made.folder / "done").exists():
            made.folder.mkdir()
            made.make()
            made.install()
            (made.folder / "done").touch()
    return made


@pytest.fixture(scope="session")
def installed(built: Built) -> Built:
    if (built.folder / "unreachable").exists():
        pytest.skip("no package index can be reached, so nothing can be installed")
    return built


@pytest.fixture(scope="session")
def run_folder(installed: Built) -> Path:
    """A run of the sample against the sandbox, by the installed command, outside the checkout."""
    folder = installed.outside / f"run-{os.getpid()}"
    sample = str(ROOT / "sample_data" / "fleet.csv.gz")
    options = ("--account", "0000123456-00001", "--sku", "SIMSec-IoT", "--run-dir", str(folder))
    done = installed.batchlic("assign", sample, *options, "--sandbox", "--max-rejects", "100", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["statuses"]["accepted"] > 20_000
    return folder


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def contents(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


# -- what is in them ------------------------------------------------------------------------------------


def test_a_wheel_of_the_sdist_equals_that_of_the_checkout(built: Built) -> None:
    assert contents(built.wheel_of_sdist) == contents(built.wheel)


def test_the_wheel_has_the_package_its_man_page_and_nothing_else(built: Built) -> None:
    package = {f"batchlic/{path.relative_to(ROOT / 'batchlic')}" for path in _files(ROOT / "batchlic")}
    base = f"batchlic-{PROJECT['version']}"
    about = {f"{base}.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    others = {f"{base}.dist-info/licenses/LICENSE", f"{base}.data/data/share/man/man1/batchlic.1"}
    assert contents(built.wheel).keys() == package | about | others
    assert {"batchlic/py.typed", "batchlic/web/static/icon.svg"} <= package


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")


def test_the_sdist_has_what_make_test_needs(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {
        "Makefile",
        ".ci/program.txt",
        ".ci/requirements.txt",
        "README.md",
        "tests/conftest.py",
        "sample_data/fleet.csv.gz",
    }
    assert needed <= names
    assert not {
        name for name in names if name.startswith(("runs/", ".venv", "dist/")) or "__pycache__" in name
    }


def test_a_demo_installs_the_versions_that_the_tests_use() -> None:
    pins = {line for line in LOCK.read_text().splitlines() if "==" in line}
    of_demo = {line for line in LOCK.with_name("program.txt").read_text().splitlines() if "==" in line}
    assert of_demo < pins


def test_the_metadata_is_complete(built: Built) -> None:
    found = metadata(built.wheel)
    assert (found["Name"], found["Version"]) == ("batchlic", PROJECT["version"])
    assert (found["License-Expression"], found["License-File"]) == ("MIT", "LICENSE")
    assert (found["Requires-Python"], found["Description-Content-Type"]) == (">=3.11", "text/markdown")
    assert found["Summary"]
    assert found["Keywords"]
    versions = {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13, 14)}
    assert versions <= {*found.get_all("Classifier", [])}


# -- what they need -------------------------------------------------------------------------------------


_NOT_INSTALLED = {"snowflake": ["snowflake-connector-python"], "pymysql": ["pymysql"]}
"""Modules of extras that the development environment leaves out, with their distributions."""
_OF_LATER_PYTHONS = {"compression"}


def test_every_import_is_of_a_dependency_or_an_extra() -> None:
    extras = [one for name, some in PROJECT["optional-dependencies"].items() if name != "all" for one in some]
    declared = {canonicalize_name(Requirement(one).name) for one in [*PROJECT["dependencies"], *extras]}
    known = _NOT_INSTALLED | dict(packages_distributions())
    modules = _imported() - sys.stdlib_module_names - _OF_LATER_PYTHONS - {"batchlic"}
    assert [name for name in modules if declared.isdisjoint(map(canonicalize_name, known[name]))] == []


def _imported() -> set[str]:
    found = set()
    for path in (ROOT / "batchlic").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add((node.module or "").partition(".")[0])
    return found


def test_the_extra_all_has_every_other_extra() -> None:
    extras = dict(PROJECT["optional-dependencies"])
    [everything] = extras.pop("all")
    assert Requirement(everything).extras == extras.keys()


def test_the_main_dependencies_are_those_of_the_lock(installed: Built) -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "freeze", "--python", str(installed.bin / "python")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    found = {line for line in listed if not line.startswith("batchlic")}
    assert found <= {*re.findall(r"^\S+==[^\s;]+", LOCK.read_text(encoding="utf-8"), re.MULTILINE)}
    assert not {line for line in found if line.startswith(("prometheus", "xlsxwriter", "duckdb", "pytest"))}


# -- that they run --------------------------------------------------------------------------------------


def test_the_installed_command_has_help(installed: Built) -> None:
    done = installed.batchlic("--help")
    assert (done.returncode, "Usage: batchlic " in done.stdout) == (0, True)


def test_a_run_of_the_sample_leaves_its_files_and_a_report(run_folder: Path) -> None:
    files = {path.name for path in run_folder.iterdir()}
    assert {"results.parquet", "rejects.parquet", "audit.parquet", "summary.json", "report.html"} <= files


def test_a_report_can_be_made_again(installed: Built, run_folder: Path) -> None:
    to = installed.outside / f"report-{os.getpid()}.html"
    done = installed.batchlic("report", str(run_folder), "--to", str(to))
    assert (done.returncode, to.read_text(encoding="utf-8").startswith("<!doctype html>")) == (0, True)


def test_serve_has_its_pages_and_stylesheets(installed: Built, run_folder: Path) -> None:
    with subprocess.Popen(
        [installed.bin / "batchlic", "serve", str(run_folder.parent), "--port", "0"],
        cwd=installed.outside,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            get = build_opener(ProxyHandler({})).open
            for path, start in {
                "": b"<!doctype html>",
                "static/pages.css": b"",
                "static/icon.svg": b"<svg",
            }.items():
                with get(url + path) as answer:
                    assert answer.read().startswith(start)
        finally:
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("export", "{run}", "--to", "rejects.xlsx"), "xlsx"),
        (("assign", "fleet.csv", "--account", "x", "--sku", "x", "--metrics-port", "0"), "metrics"),
    ],
)
def test_a_missing_extra_is_exit_2_and_named(
    installed: Built, run_folder: Path, arguments: tuple[str, ...], extra: str
) -> None:
    done = installed.batchlic(*(word.replace("{run}", str(run_folder)) for word in arguments))
    assert (done.returncode, f"pip install 'batchlic[{extra}]'" in done.stderr) == (2, True)


def test_the_man_page_is_installed_where_man_finds_it(installed: Built) -> None:
    page = installed.environment / "share" / "man" / "man1" / "batchlic.1"
    assert page.read_bytes() == (ROOT / "docs" / "man" / "batchlic.1").read_bytes()
