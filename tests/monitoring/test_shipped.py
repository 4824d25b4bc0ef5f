"""The alert rules and the dashboard that batchlic ships: valid, and about metrics that it exports."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from batchlic.callbacks.counts import Counts
from batchlic.callbacks.metrics import ListenerMetrics
from batchlic.monitoring.instruments import INSTRUMENTS, Kind, label_names

SHIPPED = Path(__file__).parents[2] / "jobs" / "monitoring"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((SHIPPED / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((SHIPPED / "dashboard.json").read_text())
EXPRESSIONS = [rule["expr"] for rule in RULES] + [
    target["expr"].replace("$__rate_interval", "5m")
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
]
ADDED = {"instance", "job"}
"""Labels that Prometheus adds."""


def exported() -> dict[str, set[str]]:
    """The labels of each series that runs and listeners export, by name."""
    found: dict[str, set[str]] = {}
    for one in INSTRUMENTS:
        labels = {*label_names(one)}
        if one.kind is Kind.HISTOGRAM:
            found[f"{one.name}_bucket"] = {*labels, "le"}
            found |= {f"{one.name}_{part}": labels for part in ("sum", "count")}
        else:
            found[one.name] = labels
    counts = Counts(last_stored_at=0.0)
    counts.refused[503] = 1
    for family in ListenerMetrics(counts).collect():
        found |= {sample.name: {*sample.labels} for sample in family.samples}
    return found


def selectors(expression: object) -> Iterator[promql_parser.VectorSelector]:
    """All selectors in a parsed expression."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
        return
    for name in ("expr", "lhs", "rhs", "vector_selector", "vs"):
        if (inner := getattr(expression, name, None)) is not None:
            yield from selectors(inner)
    for argument in getattr(expression, "args", None) or ():
        yield from selectors(argument)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_are_about_metrics_and_labels_that_batchlic_exports(expression: str) -> None:
    known = exported()
    found = list(selectors(promql_parser.parse(expression)))
    assert len(found) == len(re.findall(r"\bbatchlic_\w+", expression)) > 0
    for selector in found:
        assert selector.name in known
        assert {matcher.name for matcher in selector.matchers.matchers} <= known[selector.name] | ADDED


def test_each_alert_says_how_bad_it_is_and_what_to_do() -> None:
    assert {rule["labels"]["severity"] for rule in RULES} == {"warning", "critical"}
    for rule in RULES:
        assert rule["annotations"].keys() == {"summary", "description"}
    texts = "".join(text for rule in RULES for text in rule["annotations"].values())
    assert set(re.findall(r"\$labels\.(\w+)", texts)) <= {"job_name", "action", "instance"}


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells


def test_every_metric_is_documented() -> None:
    page = (SHIPPED.parents[1] / "docs" / "how-to" / "monitoring.md").read_text()
    documented = set(
        re.findall(r"`(batchlic_[a-z_]+)[`{]", "".join(re.findall(r"^\|([^|]*)\|", page, re.MULTILINE)))
    )
    parts = ("_bucket", "_sum", "_count")
    histograms = {one.name for one in INSTRUMENTS if one.kind is Kind.HISTOGRAM}
    assert documented == {name for name in exported() if not name.endswith(parts)} | histograms


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool: it comes with Prometheus")
def test_the_alerts_fire_when_they_should() -> None:
    rules = Path(__file__).with_name("alerts_test.yaml")
    done = subprocess.run(["promtool", "test", "rules", rules], capture_output=True, text=True, check=False)  # noqa: S607
    assert done.returncode == 0, done.stdout + done.stderr
