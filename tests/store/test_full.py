"""A store without space: a trigger raises what the server raises for a full disk (SQLSTATE 53100)."""

from pathlib import Path

import pytest

from tests.endtoend.program import end
from tests.postgresql import PostgreSQL
from tests.store.site import Site, assert_finished, site

pytestmark = pytest.mark.slow

NO_SPACE = """
CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$
"""


def fill(at: Site, table: str) -> None:
    at.ask(NO_SPACE)
    at.ask(f"CREATE TRIGGER full_disk BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION no_space()")


def test_nothing_is_sent_if_the_store_is_full(tmp_path: Path, postgresql: PostgreSQL) -> None:
    with site(tmp_path, postgresql) as at:
        at.batchlic("store", "upgrade")
        fill(at, "intents")
        ended = at.finish()
        assert ended.code == 6, ended
        assert "has no space" in ended.err + ended.out
        assert "Traceback" not in ended.err
        assert at.sent() == 0


def test_a_store_that_fills_up_stops_the_run_which_is_resumed(tmp_path: Path, postgresql: PostgreSQL) -> None:
    with site(tmp_path, postgresql) as at:
        process = at.assign()
        at.until_sent(10, process)
        fill(at, "answers")
        ended = end(process)
        assert ended.code == 6, ended
        assert "Traceback" not in ended.err
        at.ask("DROP FUNCTION no_space CASCADE")
        assert_finished(at, at.finish())
