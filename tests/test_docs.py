"""README and docs: links resolve, and what they name exists. `tests/docs` runs their commands."""

import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from batchlic.cli.app import app
from batchlic.reader.columns.profiles import PROFILES, Profile
from batchlic.reader.roles import Role
from batchlic.reader.validation.reasons import EXPLANATIONS, Reason
from docs.builder.reference import commands
from tests.postgresql import PostgreSQL
from tests.reader.builders import ACCOUNT, iccid, imei
from tests.reader.databases import duckdb_file, postgresql_table, sqlite_file

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(DOCS.rglob("*.md")),
    ROOT / "jobs" / "schedule" / "README.md",
    ROOT / "sample_data" / "README.md",
]


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow
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
    assert all("3 rows read" in one.output or "3  rows" in one.output for one in done), [
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


def test_every_command_and_option_that_is_named_exists() -> None:
    group = typer.main.get_command(app)
    of_all = options_of(group)
    known = {names: options_of(command) for names, command in commands(group)}
    for page in PAGES:
        for line in re.findall(r"(?:\$ |`)batchlic ([^`\n]*)", page.read_text()):
            words = [word for word in line.split() if not word.startswith("-")]
            command = next((tuple(words[:n]) for n in (2, 1) if tuple(words[:n]) in known), None)
            options = set(re.findall(r"(?<= )--[a-z-]+", f" {line}"))
            if command is not None:
                assert options <= known[command] | {"--help"}, (page.name, line)
            else:
                assert options <= of_all | {"--help"}, (page.name, line)
                assert not words or not words[0].islower() or words[0] in GROUPS, (page.name, line)


GROUPS = {"callbacks", "ledger"}
"""Names of groups without a command of their own."""


def options_of(command: Any) -> set[str]:  # noqa: ANN401 - the class is private to typer
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


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
