"""README and docs: their commands and snippets run, and they name every option, key and column."""

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from batchlic.cli.app import app
from batchlic.errors import ExitCode
from batchlic.job import (
    Approval,
    Canary,
    EmbeddedSandbox,
    Inventory,
    Job,
    LedgerUse,
    Licensing,
    Limits,
    MetricsUse,
    Notify,
    ReportUse,
    Syncing,
)
from batchlic.reader.columns.profiles import PROFILES, Profile
from batchlic.reader.roles import Role
from batchlic.reader.validation.reasons import EXPLANATIONS, Reason
from batchlic.writer.audit import AUDIT
from batchlic.writer.callback_outcomes import OUTCOMES
from batchlic.writer.device_states import RESULTS
from batchlic.writer.summary import Summary
from tests.postgresql import PostgreSQL
from tests.reader.builders import ACCOUNT, iccid, imei
from tests.reader.databases import duckdb_file, postgresql_table, sqlite_file

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(DOCS.rglob("*.md")),
    ROOT / "jobs" / "schedule" / "README.md",
    ROOT / "sample_data" / "README.md",
]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


KEEP, CANARY = ((DOCS / "how-to" / name).read_text() for name in ("keep.md", "canary.md"))


def commands(program: str, text: str = README) -> list[str]:
    lines = "".join(blocks("console", text)).splitlines()
    return [line[2:] for line in lines if line.startswith(f"$ {program} ")]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a checkout, in which the commands of the README and of some other pages have run."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("sample_data", "jobs", "docs"):
        (folder / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in (command for page in (README, KEEP, CANARY) for command in commands("batchlic", page)):
        done = subprocess.run(
            shlex.split(command),
            cwd=folder,
            env={**os.environ, "PATH": path, "BATCHLIC_STATE_DIR": str(folder / "runs")},
            capture_output=True,
            check=False,
        )
        # The sample fleet has broken rows: a run without --max-rejects ends with exit code 3.
        assert done.returncode in {ExitCode.OK, ExitCode.INCOMPLETE}, (command, done.stderr.decode())
    return folder


def test_the_commands_of_the_readme_run(checkout: Path) -> None:
    assert len(commands("batchlic")) >= 3
    assert (checkout / "runs" / "rehearsal" / "results.parquet").exists()


def test_the_commands_of_the_page_about_kept_columns_run(checkout: Path) -> None:
    assert (checkout / "rejects.csv").read_text().splitlines()[0].endswith(",site,asset")


def test_the_command_of_the_page_about_canaries_has_one(checkout: Path) -> None:
    assert "are sent first" in (checkout / "runs" / "canary" / "summary.json").read_text()


@pytest.mark.parametrize("snippet", [*blocks("python"), *blocks("python", KEEP)])
def test_the_snippets_run(snippet: str, checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_commands_of_the_page_on_databases_run(
    tmp_path: Path, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (DOCS / "how-to" / "databases.md").read_text()
    written = "postgresql://reader@db.example.com/inventory"
    address = postgresql.new_database("inventory")
    [job] = blocks("toml", page)
    (tmp_path / "nightly.toml").write_text(job.replace(written, address))
    rows = [(imei(number), iccid(number), ACCOUNT) for number in range(3)]
    types = "imei text, iccid text, account text"
    sqlite_file(tmp_path / "fleet.db", rows, types, table="devices")
    duckdb_file(tmp_path / "warehouse.duckdb", rows, types, table="devices")
    postgresql_table(address, [(*row, "active") for row in rows], f"{types}, state text", table="device")
    for view in (
        "CREATE VIEW devices AS SELECT imei, account, state FROM device",
        "CREATE VIEW sims AS TABLE device",
    ):
        postgresql.execute(view, "inventory")
    monkeypatch.chdir(tmp_path)
    done = [
        CliRunner(env={"BATCHLIC_STATE_DIR": str(tmp_path)}).invoke(
            app, shlex.split(line.replace(written, address))
        )
        for line in blocks("console", page)[0].replace("$ batchlic ", "").splitlines()
    ]
    assert len(done) == 4
    assert all("3 rows read" in one.stdout or "3  rows" in one.stdout for one in done), [
        one.output for one in done
    ]


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"(?:\$ |`)make ([a-z-]+)", text))
    assert {"demo", "test"} <= named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_and_anchor_has_a_target(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_an_anchor_is_the_heading_in_lower_case_without_punctuation() -> None:
    text = "# Job files\n```console\n# a comment\n```\n## [inventory]\n## `a_b`: c, d\n## A\n## A\n"
    assert anchors(text) == {"job-files", "inventory", "a_b-c-d", "a", "a-1"}


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub derives them."""
    outside_code = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    found: list[str] = []
    seen: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.+)$", outside_code, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        found.append(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return set(found)


def test_every_option_that_is_named_exists() -> None:
    known = {"--help"}
    commands = [
        "",
        "init",
        "schema",
        "run",
        "assign",
        "migrate",
        "sync",
        "plan",
        "approve",
        "apply",
        "export",
        "report",
        "resume",
        "status",
        "limit",
        "settle",
        "rollback",
        "retry",
        "check",
        "audit",
        "sandbox",
    ]
    commands += ["ledger show", "ledger import", "ledger export"]
    commands += [
        "runs",
        "runs prune",
        "serve",
        "listen",
        "reconcile",
        "subscriptions",
        "callbacks register",
        "callbacks unjudged",
        "notify-test",
    ]
    for command in commands:
        shown = CliRunner().invoke(app, [*command.split(), "--help"])
        assert shown.exit_code == ExitCode.OK, command
        known |= set(re.findall(r"--[a-z-]+", shown.stdout))
    for page in PAGES:
        for line in re.findall(r"(?:\$ |`)batchlic [^`\n]*", page.read_text()):
            assert set(re.findall(r"(?<= )--[a-z-]+", line)) <= known, line


def test_every_exit_code_is_explained() -> None:
    assert re.findall(r"^\| (\d) \|", README, re.MULTILINE) == [str(int(code)) for code in ExitCode]


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        ("Top level", Job),
        ("[inventory]", Inventory),
        ("[license]", Licensing),
        ("[limits]", Limits),
        ("[sync]", Syncing),
        ("[canary]", Canary),
        ("[ledger]", LedgerUse),
        ("[approval]", Approval),
        ("[metrics]", MetricsUse),
        ("[notify]", Notify),
        ("[report]", ReportUse),
        ("[sandbox]", EmbeddedSandbox),
    ],
)
def test_every_key_of_a_job_file_is_documented(heading: str, table: type[BaseModel]) -> None:
    section = (DOCS / "reference" / "jobs.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    documented = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\|([^|]*)\|", section, re.MULTILINE))))
    keys = {name for name, field in table.model_fields.items() if not _is_table(field.annotation)}
    assert documented == keys


def _is_table(annotation: object) -> bool:
    types = (annotation, *get_args(annotation))  # also an optional table
    return any(isinstance(inner, type) and issubclass(inner, BaseModel) for inner in types)


@pytest.mark.parametrize(
    ("file", "columns"),
    [("results.parquet", RESULTS), ("audit.parquet", AUDIT), ("outcomes.parquet", OUTCOMES)],
    ids=lambda value: str(value)[:15],
)
def test_every_column_is_documented(file: str, columns: dict[str, object]) -> None:
    documented = re.findall(r"`([a-z_0-9]+)`", "".join(_first_cells(file)))
    assert set(columns) <= set(documented)


def test_every_field_of_the_summary_is_documented() -> None:
    documented = re.findall(r"`([a-z_0-9]+)`", "".join(_first_cells("summary.json")))
    assert set(Summary.__struct_fields__) == set(documented)


def _first_cells(file: str) -> list[str]:
    section = (DOCS / "reference" / "files.md").read_text().split(f"## {file}\n")[1].split("\n## ")[0]
    return re.findall(r"^\|([^|]*)\|", section, re.MULTILINE)


@pytest.mark.parametrize("job", sorted((ROOT / "jobs").glob("*.toml")), ids=lambda job: job.name)
def test_every_job_file_is_valid(job: Path) -> None:
    from batchlic.job import load_job  # noqa: PLC0415 - used by this test only

    assert load_job(job, {}).name


def test_the_architecture_page_names_tests_that_exist() -> None:
    page = (DOCS / "explanation" / "architecture.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert len(named) > 15
    assert named <= defined


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_every_known_export_is_documented(profile: Profile) -> None:
    columns = [f"`{profile.columns[role]}`" if role in profile.columns else "" for role in list(Role)[:3]]
    row = f"| `{profile.name}` | {profile.title} | {' | '.join(columns)} |"
    assert row in (DOCS / "reference" / "inventories.md").read_text()


def test_the_reasons_for_a_reject_are_documented_as_reports_explain_them() -> None:
    page = (DOCS / "reference" / "inventories.md").read_text().split("## Reasons for a reject\n")[1]
    rows = re.findall(r"^\| `.*$", page, re.MULTILINE)
    names = [", ".join(f"`{reason}`" for reason in found.reasons) for found in EXPLANATIONS]
    expected = zip(names, EXPLANATIONS, strict=True)
    assert rows == [f"| {reasons} | {found.when} | {found.advice} |" for reasons, found in expected]
    assert sorted(reason for found in EXPLANATIONS for reason in found.reasons) == sorted(Reason)
