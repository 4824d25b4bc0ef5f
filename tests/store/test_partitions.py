"""A session that can't reach the store any more stops sending within its lease, and ends."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.endtoend.program import end
from tests.postgresql import PostgreSQL
from tests.store.proxy import Proxy, proxied
from tests.store.site import assert_finished, site


@pytest.mark.parametrize("break_off", [Proxy.drop, pytest.param(Proxy.reset, marks=pytest.mark.slow)])
def test_a_session_cut_off_from_the_store_exits_6_and_is_resumed(
    tmp_path: Path, postgresql: PostgreSQL, break_off: Callable[[Proxy], None]
) -> None:
    with site(tmp_path, postgresql) as at, proxied(postgresql.folder) as proxy:
        address = proxy.url(at.database)
        cut_off = at.assign(BATCHLIC_STORE=address)
        at.until_sent(10, cut_off)
        break_off(proxy)
        ended = end(cut_off)
        assert ended.code == 6
        assert "Traceback" not in ended.err
        proxy.heal()
        assert_finished(at, at.finish_once_lapsed(BATCHLIC_STORE=address))


@pytest.mark.slow
def test_a_session_goes_on_when_the_server_has_ended_its_connections(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    """Also what was in flight is recorded: nothing is in doubt."""
    with site(tmp_path, postgresql, devices=300) as at:
        process = at.assign(BATCHLIC_LEASE_S="30")
        at.until_sent(10, process)
        at.ask(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        ended = end(process)
        assert ended.code == 0, ended
        assert not at.lost_batches()
        assert_finished(at, ended)
