"""Measures what `pip install batchlic` and its extras install: `make size`."""

import subprocess
import sys
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
LOCK = ROOT / ".ci" / "requirements.txt"


def installed(requirements: list[str]) -> tuple[int, float]:
    """Distributions, and megabytes on disk without bytecode, of requirements in an empty environment."""
    uv = [sys.executable, "-m", "uv", "--quiet"]
    with TemporaryDirectory() as folder:
        subprocess.run([*uv, "venv", folder, "--clear", "--python", sys.executable], check=True)
        options = ["--python", folder, "--constraints", str(LOCK)]
        subprocess.run([*uv, "pip", "install", *options, *requirements], check=True)
        [packages] = Path(folder).glob("lib/*/site-packages")
        size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
        return len([*packages.glob("*.dist-info")]), size / 1e6


def main() -> None:
    """Print a table: the main dependencies, and what each extra adds to them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: some for name, some in project["optional-dependencies"].items() if name != "all"}
    packages, size = installed(project["dependencies"])
    sys.stdout.write(f"{'':24}packages      MB\n{'batchlic':24}{packages:8}{size:8.1f}\n")
    everything = [requirement for some in extras.values() for requirement in some]
    for name, requirements in {**extras, "all": everything}.items():
        more, larger = installed([*project["dependencies"], *requirements])
        sys.stdout.write(f"{f'batchlic[{name}]':24}{more - packages:+8}{larger - size:+8.1f}\n")


if __name__ == "__main__":
    main()
