"""`make bench-keep`: planning, and a whole run, with two kept columns, compared with the same without them.

Each measurement has its own process. Compare figures of one run of the benchmark only.
"""

import subprocess
import sys
from pathlib import Path

from batchlic.sandbox.config import SandboxConfig
from batchlic.sandbox.embedded import embedded
from tests.benchmarks.ledger import ENVIRONMENT, FLAGS, REPOSITORY, compare_sizes, measure

LOGIN = [f"BATCHLIC_{name}" for name in ("CLIENT_ID", "CLIENT_SECRET", "USERNAME", "PASSWORD")]
KEEP = ["--keep", "site,asset id"]


def main() -> None:
    compare_sizes(__doc__, compare)


def compare(rows: int, folder: Path) -> None:
    """Plan the same inventory, and run it against a sandbox, without and with kept columns."""
    generate = ["sample_data/generate.py", "--rows", str(rows), "--out", str(folder / "fleet.csv")]
    subprocess.run([sys.executable, *generate], cwd=REPOSITORY, check=True)
    steps = {
        "plan": ["plan", "fleet.csv", *FLAGS, "--no-ledger", "--run-dir", "planned"],
        "whole run": [
            "assign",
            "fleet.csv",
            *FLAGS,
            "--no-ledger",
            "--no-report",
            "--yes",
            "--run-dir",
            "run",
        ],
    }
    for name, command in steps.items():
        plain = step(rows, name, in_folder(command, "plain"), folder)
        step(rows, f"{name}, two columns kept", in_folder([*command, *KEEP], "kept"), folder, plain)
    size = (folder / "planned-kept" / "kept.parquet").stat().st_size
    print(f"{'':>12} {'size of kept.parquet':>34} {size / 1e6:>8.0f} MB", flush=True)


def step(rows: int, name: str, command: list[str], folder: Path, plain: float | None = None) -> float:
    """Measure a command, which has a sandbox of its own. The sandbox, another process, is not measured."""
    with embedded(SandboxConfig()) as url:
        login = dict.fromkeys(LOGIN, "sandbox")
        settings = {**ENVIRONMENT, **login, "BATCHLIC_BASE_URL": url}
        return measure(rows, name, command, folder, plain, settings=settings)


def in_folder(command: list[str], ending: str) -> list[str]:
    return [f"{word}-{ending}" if word in {"planned", "run"} else word for word in command]


if __name__ == "__main__":
    main()
