"""The version of batchlic, also in a checkout that is not installed."""

from pathlib import Path


def version() -> str:
    """The version of the installed package, or else of the checkout, as in pyproject.toml."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    checkout = Path(__file__).parents[2] / "pyproject.toml"
    if checkout.is_file():
        import tomllib

        project = tomllib.loads(checkout.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == "batchlic":
            return str(project["version"])
    try:
        return installed("batchlic")
    except PackageNotFoundError:
        return "unknown"
