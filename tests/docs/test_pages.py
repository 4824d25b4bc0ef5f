"""The pages run: commands, files and snippets in order, each page in a folder of its own."""

import ast
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batchlic.errors import ExitCode
from batchlic.job import make_job
from tests.docs.console import BLOCK, PORT, World, commands, unchanging
from tests.endtoend.program import ACCOUNT, REPOSITORY, fleet, imei, keys

PAGES = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text()
    for path in (*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"))
}
TUTORIALS = sorted(name for name in PAGES if name.startswith("docs/tutorial/"))
RUN_ELSEWHERE = {
    "docs/how-to/callbacks.md": "tests/endtoend/test_walkthrough.py",
    "docs/how-to/databases.md": "tests/test_docs.py",
    "docs/how-to/python.md": "tests/api/test_page.py",
    "docs/reference/carrier-client.md": "tests/examples/test_examples.py",
    "docs/reference/events.md": "tests/test_events.py",
}
"""Pages that need more than a sandbox, and the tests that run them."""

LANGUAGES = {"console", "csv", "mermaid", "py", "python", "shell", "text", "toml"}
"""The languages of blocks. CONTRIBUTING says how each is tested."""


def blocks(page: str, *languages: str) -> list[str]:
    return [found[4] for found in BLOCK.finditer(PAGES[page]) if found[2] in languages]


def runs(page: str) -> bool:
    return bool(blocks(page, "console", "python")) and page not in RUN_ELSEWHERE


def with_sandbox(world: World) -> None:
    world.run(f"batchlic sandbox --port {PORT}")


def with_a_licensed_fleet(world: World) -> None:
    with_sandbox(world)
    world.run(f"batchlic assign fleet.csv --account {ACCOUNT} --sku SIMSec-IoT --run-dir runs/monday")


def with_profiles(world: World) -> None:
    with_sandbox(world)
    login = {name.removeprefix("BATCHLIC_").lower(): value for name, value in world.settings.items()}
    login["base_url"] = world.with_port(login["base_url"])
    lines = "".join(f'{name} = "{value}"\n' for name, value in login.items())
    file = world.folder / "profiles.toml"
    file.write_text(f"[east]\n{lines}[west]\n{lines}")
    file.chmod(0o600)
    world.settings = {"BATCHLIC_PROFILES_FILE": str(file)}


def with_a_rehearsal(world: World) -> None:
    world.run(
        f"batchlic assign fleet.csv --account {ACCOUNT} --sku SIMSec-IoT --sandbox --run-dir runs/rehearsal"
    )


def with_poison(world: World) -> None:
    (world.folder / "poison.csv").write_text(f"{imei(7)}\n")


PREPARATIONS: dict[str, Callable[[World], None]] = {
    "docs/explanation/ledger.md": with_a_licensed_fleet,
    "docs/how-to/check.md": with_sandbox,
    "docs/how-to/command-line.md": with_a_licensed_fleet,
    "docs/how-to/migrate.md": with_a_licensed_fleet,
    "docs/how-to/monitoring.md": with_sandbox,
    "docs/how-to/profiles.md": with_profiles,
    "docs/how-to/recovery.md": with_sandbox,
    "docs/how-to/report.md": with_a_rehearsal,
    "docs/how-to/review.md": with_sandbox,
    "docs/how-to/sandbox.md": with_poison,
    "docs/how-to/sync.md": with_a_licensed_fleet,
    "docs/how-to/watching.md": with_a_rehearsal,
    "docs/reference/files.md": with_a_rehearsal,
}
REPLACEMENTS = {
    "/var/lib/node_exporter/textfile/": "",
    "/srv/batchlic/runs": "runs",
    "--metrics-port 9464": "--metrics-port 0",
    "20261121T213558Z-a39cc27f": "runs/monday",
    "864508030109877": imei(1),
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS)
def test_a_tutorial_prints_what_it_shows(page: str, world: World) -> None:
    """`python -m tests.docs.console PAGE` writes what the program prints now into the page."""
    assert unchanging(world.play(PAGES[page])) == unchanging(PAGES[page])


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(name for name in PAGES if runs(name) and name not in TUTORIALS))
def test_the_commands_and_snippets_of_a_page_run(page: str, world: World) -> None:
    for name in ("jobs", "sample_data"):
        (world.folder / name).symlink_to(REPOSITORY / name)
    fleet(world.folder / "fleet.csv", 20)
    world.settings, world.replacements = keys(f"http://127.0.0.1:{PORT}/api"), REPLACEMENTS
    if prepare := PREPARATIONS.get(page):
        prepare(world)
    world.play(PAGES[page])
    # The sample fleet has broken rows: a run without --max-rejects ends with exit code 3.
    assert {code for _, code in world.exit_codes} <= {ExitCode.OK, ExitCode.INCOMPLETE}, world.log


@pytest.mark.parametrize("page", sorted(PAGES))
def test_blocks_have_a_language_that_says_how_they_are_tested(page: str) -> None:
    assert {found[2] for found in BLOCK.finditer(PAGES[page])} <= LANGUAGES
    assert PAGES[page].count("```") == 2 * len(BLOCK.findall(PAGES[page]))
    for block in blocks(page, "console"):
        assert commands(block), block
    for block in blocks(page, "py"):
        compile(block, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_pages_that_run_elsewhere_are_named_there() -> None:
    for page, test in RUN_ELSEWHERE.items():
        assert Path(page).name in (REPOSITORY / test).read_text()


@pytest.mark.parametrize("page", sorted(name for name in PAGES if blocks(name, "toml")))
def test_the_job_files_of_a_page_are_valid(page: str) -> None:
    base: dict[str, dict[str, object]] = {
        "inventory": {"files": ["fleet.csv"]},
        "license": {"sku": "SIMSec-IoT"},
    }
    for block in blocks(page, "toml"):
        content = tomllib.loads(block)
        if page != "docs/how-to/profiles.md":
            tables = {name: {**table, **content.get(name, {})} for name, table in base.items()}
            make_job({"action": "assign", **content, **tables}, {}, where=page)
