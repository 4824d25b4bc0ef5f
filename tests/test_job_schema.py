"""The JSON Schema of job files agrees with what `load_job` accepts."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from typer.testing import CliRunner

from batchlic.cli.app import app
from batchlic.errors import UsageError
from batchlic.job import load_job, make_job
from batchlic.job_schema import job_schema

JOBS = Path(__file__).parents[1] / "jobs"
SHIPPED = JOBS / "batchlic-job.schema.json"
SCHEMA = job_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
HEAD = 'action = "assign"\n[inventory]\nfiles = ["fleet.csv"]\n'


def problems(text: str) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(tomllib.loads(text))]


def test_the_shipped_file_is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(app, ["schema"])
    assert printed.stdout == SHIPPED.read_text(), "make docs-schema writes the file again"
    assert json.loads(printed.stdout)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("job", sorted(JOBS.glob("*.toml")), ids=lambda job: job.name)
def test_each_example_is_valid_and_names_the_schema(job: Path) -> None:
    assert problems(job.read_text()) == []
    assert job.read_text().splitlines()[0] == f"#:schema ./{SHIPPED.name}"


@pytest.mark.parametrize(
    "text",
    [
        'canary = "1%"\n' + HEAD,
        "canary = 50\n" + HEAD,
        HEAD + '[canary]\ndevices = "2.5 %"\nconfirmed = true\n',
        HEAD + 'max_change = "20%"\n',
        HEAD + "max_change = 0.2\n",
        HEAD + 'max_change = "0.2"\n',
        HEAD + '[limits]\nheadroom = "12.5%"\nmax_rate = 5\n',
        HEAD + '[license.other_skus]\nABC-1 = "flexible"\n',
        HEAD + '[notify]\nto = ["ops"]\non = ["failure"]\nheartbeat_ok = [0, 3]\n',
        HEAD.replace("assign", "sync") + "[sync]\nmax_removals = 50\n",
        HEAD.replace("assign", "sync") + '[sync]\nmax_removals = "100%"\n',
        HEAD.replace("assign", "migrate")
        + '[license]\nfrom_sku = "SIMSec-IoT"\nto_sku = "TS-BUNDLE-KTO-SIMSEC-MRC"\n',
    ],
)
def test_what_is_accepted_is_valid(text: str, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(text)
    load_job(tmp_path / "job.toml", {})
    assert problems(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEAD.replace("assign", "asign"),
        HEAD + 'sheeet = "x"\n',
        HEAD + "[limit]\nmax_rate = 5\n",
        HEAD + "[limits]\nmax_rate = 0\n",
        HEAD + "[limits]\nbatch_size = 101\n",
        HEAD + '[limits]\nmax_rejects = "100"\n',
        HEAD + "max_change = 20\n",
        HEAD + '[sync]\nmax_removals = "101%"\n',
        HEAD + '[inventory.columns]\nimey = "x"\n',
        HEAD + '[license]\nfrom_sku = "SIMSec-IoT"\n',
        HEAD + '[license.other_skus]\nABC-1 = "eternal"\n',
        HEAD.replace("assign", "migrate") + '[license]\nfrom_sku = "SIMSec-IoT"\n',
        'action = "assign"\n[inventory]\nfiles = []\n',
    ],
)
def test_what_is_refused_is_not_valid(text: str) -> None:
    assert problems(text)
    if "max_rejects" not in text:  # a number in quotes is accepted, but not advised
        with pytest.raises(UsageError):
            make_job(tomllib.loads(text), {}, where="job")


def keys(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    tables = [schema, *(table for table in schema["$defs"].values() if "properties" in table)]
    return [found for table in tables for found in table["properties"].items()]


def test_each_key_has_a_description_for_editors() -> None:
    for key, part in keys(SCHEMA):
        table = SCHEMA["$defs"].get(part.get("$ref", "").removeprefix("#/$defs/"), {})
        text = part.get("description") or table["description"]
        assert text.endswith("."), key
        assert "None" not in text
