"""docs/how-to/python.md: its snippets run, and it names what there is."""

import re
from pathlib import Path

import pytest

import batchlic

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "python.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_the_snippets_of_the_page_run(
    snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCHLIC_STATE_DIR", str(tmp_path / "state"))
    exec(compile(snippet, "python.md", "exec"), {"__name__": "__main__"})  # noqa: S102 - our own page
    assert capsys.readouterr().out


def test_the_page_names_every_attribute_of_a_run() -> None:
    attributes = {name for name in dir(batchlic.Run) if not name.startswith("_")} | {"warnings"}
    twins = {name for name in attributes if name.endswith("_async")}
    assert {name for name in attributes - twins if not re.search(rf"`{name}(\(\))?`", PAGE)} == set()


def test_the_page_names_every_error_and_action() -> None:
    named = set(re.findall(r"`(\w+)`", PAGE))
    errors = {
        name
        for name in batchlic.__all__
        if isinstance(kind := getattr(batchlic, name), type) and issubclass(kind, Exception)
        if kind.__module__ == "batchlic.errors"  # carrier-client.md has those of single requests
    }
    actions = {name for name in batchlic.__all__ if f"{name}_async" in batchlic.__all__}
    assert (errors - {"Declined", "OtherVersion"}) | actions <= named
