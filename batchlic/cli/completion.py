"""What a shell completes besides commands and options: runs, SKUs and profiles. It never fails or waits."""

from contextlib import suppress

_MOST = 50
"""Most runs that a shell offers, the newest first."""


def complete_runs(incomplete: str) -> list[str]:
    """The ids of the newest runs in the state folder; a shell completes paths by itself."""
    from batchlic.errors import BatchlicError
    from batchlic.state import state_folder

    with suppress(BatchlicError, OSError):
        runs = (
            folder.name
            for folder in state_folder().iterdir()
            if folder.name.startswith(incomplete) and (folder / "plan.parquet").exists()
        )
        return sorted(runs, reverse=True)[:_MOST]
    return []


def complete_skus(incomplete: str) -> list[str]:
    """The SKUs that batchlic knows."""
    from batchlic.carrier.catalog import SKUS

    return [sku for sku in SKUS if sku.startswith(incomplete)]


def complete_profiles(incomplete: str) -> list[str]:
    """The profiles in the operator's file."""
    from batchlic.errors import BatchlicError
    from batchlic.profiles import known_profiles

    with suppress(BatchlicError, OSError):
        return [name for name in known_profiles() if name.startswith(incomplete)]
    return []
