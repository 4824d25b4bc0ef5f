"""The store of those simulations whose journal is in a store."""

import pytest

from tests.simulation.journals import BACKEND, is_on_store, use_store


@pytest.fixture(autouse=True)
def _store_of_seed(request: pytest.FixtureRequest) -> None:
    seed = request.node.callspec.params["seed"] if hasattr(request.node, "callspec") else None
    if BACKEND == "store" or (seed is not None and is_on_store(seed)):
        use_store(request.getfixturevalue("store"))
