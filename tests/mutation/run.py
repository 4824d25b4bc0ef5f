"""`make mutants`: change the code that decides, one change at a time, and list what no test notices.

mutmut makes the changes in a copy of the project and runs the tests that reach each of them
(https://mutmut.readthedocs.io). It changes function bodies: not tables and queries at the level of a module,
and not functions with a decorator, such as properties. Judge each survivor: a test is missing, or the change
makes no difference.
"""

import argparse
import ast
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
COPIED = ("batchlic", "tests", "jobs", "sample_data", "docs", "pyproject.toml", "README.md", "CHANGELOG.md")


class Subject(NamedTuple):
    """Modules that decide, as patterns of paths, and the tests that should notice a change to them."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


CARRIER = ("already", "answers", "bodies", "interpretation", "request_ids", "rules", "signs", "words")
CALLBACKS = ("identifiers", "lost_answers", "matching", "verdicts")
TESTS_OF_CALLBACKS = ("tests/callbacks/test_reports.py", "tests/callbacks/test_migrations.py")

SUBJECTS = (
    Subject(tuple(f"batchlic/carrier/{name}.py" for name in CARRIER), ("tests/carrier",)),
    Subject(("batchlic/journal/*.py",), ("tests/journal", "tests/runs/test_reconcile.py")),
    Subject(
        tuple(f"batchlic/callbacks/{name}.py" for name in CALLBACKS),
        (*TESTS_OF_CALLBACKS, "tests/runs/test_reconcile.py"),
    ),
    Subject(("batchlic/pool/*.py",), ("tests/pool", "tests/simulation")),
)

# Polars and anyio have threads, so each change needs a process that has imported nothing before.
SETTINGS = """

[tool.mutmut]
source_paths = ["batchlic"]
only_mutate = {modules}
also_copy = {copied}
pytest_add_cli_args = ["-p", "no:cacheprovider"]
pytest_add_cli_args_test_selection = {tests}
process_isolation = "forkserver"
forkserver_warmup = "none"
timeout_constant = 60.0
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("modules", nargs="*", help="like journal/status; default: all that decide")
    chosen = {f"batchlic/{name}.py" for name in arguments.parse_args().modules}
    deciding = {subject: modules_of(subject) for subject in SUBJECTS}
    if unknown := chosen.difference(*deciding.values()):
        raise SystemExit(f"{', '.join(sorted(unknown))}: not one of the modules in {__file__}")
    for subject, modules in deciding.items():
        if changed := [module for module in modules if not chosen or module in chosen]:
            with TemporaryDirectory(prefix="batchlic-mutants-") as folder:
                report(changed, subject.tests, Path(folder))


def modules_of(subject: Subject) -> list[str]:
    """The paths of the modules, from the root of the project."""
    paths = [path for pattern in subject.modules for path in sorted(REPOSITORY.glob(pattern))]
    return [str(path.relative_to(REPOSITORY)) for path in paths if path.name != "__init__.py"]


def report(modules: list[str], tests: tuple[str, ...], folder: Path) -> None:
    """Change the modules one change at a time, in a copy of the project, and print the survivors."""
    for name in COPIED:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, folder / name)
    with (folder / "pyproject.toml").open("a") as project:
        project.write(SETTINGS.format(modules=modules, copied=list(COPIED[2:]), tests=list(tests)))
    print(f"{', '.join(modules)}: changed one by one, tested by {', '.join(tests)}", flush=True)
    mutmut(folder, "run", is_shown=sys.stdout.isatty())
    fates = [line.strip().rsplit(": ", 1) for line in mutmut(folder, "results", "--all", "true").splitlines()]
    counts = Counter(fate for _, fate in fates)
    print(", ".join(f"{count} {fate}" for fate, count in counts.most_common()))
    for change, fate in fates:
        if fate != "killed":
            print("\n".join(described(change, fate, folder)), flush=True)


def described(change: str, fate: str, folder: Path) -> Iterator[str]:
    """File and line of a change, its fate, and the lines before and after."""
    module, function = change.rsplit(".", 1)
    path = Path(module.replace(".", "/")).with_suffix(".py")
    diff = mutmut(folder, "show", change).splitlines()
    start = next(number for number, line in enumerate(diff) if line.startswith("@@"))
    first_line = int(diff[start].split()[1].lstrip("-").split(",")[0])
    offset = next(number for number, line in enumerate(diff[start + 1 :]) if line[:1] in "+-")
    line = line_of(function, (folder / path).read_text()) + first_line - 1 + offset
    yield f"{path}:{line}: {fate}"
    yield from (f"    {text}" for text in diff[start + 1 :] if text[:1] in "+-")


def line_of(function: str, source: str) -> int:
    """Where a function begins that mutmut calls `x_name__mutmut_1`, a method `xǁClassǁname__mutmut_1`."""
    name = re.sub(r"__mutmut_\d+$", "", function)
    path = name.split("ǁ")[1:] or [name.removeprefix("x_")]
    node: ast.AST = ast.parse(source)
    for part in path:
        node = next(child for child in ast.iter_child_nodes(node) if getattr(child, "name", None) == part)
    return node.lineno if isinstance(node, ast.stmt) else 0


def mutmut(folder: Path, *arguments: str, is_shown: bool = False) -> str:
    """Run mutmut in a folder; returns what it prints, unless that is shown. Exits where it fails."""
    ended = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments],
        cwd=folder,
        check=False,
        text=True,
        stdout=None if is_shown else subprocess.PIPE,
        stderr=None if is_shown else subprocess.STDOUT,
    )
    if ended.returncode:
        print((ended.stdout or "").replace("\r", "\n")[-5000:], file=sys.stderr)
        raise SystemExit(f"mutmut {' '.join(arguments)} exited with {ended.returncode}")
    return ended.stdout or ""


if __name__ == "__main__":
    main()
