"""Promise K: a session that was replaced sends nothing more, and changes no file."""

import signal
from pathlib import Path

from tests.endtoend.program import end
from tests.postgresql import PostgreSQL
from tests.store.site import assert_finished, site


def test_a_session_with_an_old_epoch_records_and_sends_nothing(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    with site(tmp_path, postgresql) as at:
        process = at.assign(BATCHLIC_LEASE_S="3600")
        at.until_sent(10, process)
        at.ask("UPDATE leases SET epoch = epoch + 1, holder = 'another session'")
        recorded = at.ask("SELECT (SELECT count(*) FROM intents), (SELECT count(*) FROM answers)")
        ended = end(process)
        assert ended.code == 6
        assert "has taken over" in ended.err
        assert at.ask("SELECT (SELECT count(*) FROM intents), (SELECT count(*) FROM answers)") == recorded
        assert at.sent() <= recorded[0][0]
        assert not (at.folder / "results.parquet").exists()


def test_a_paused_session_that_was_replaced_sends_nothing_and_exits_6(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    with site(tmp_path, postgresql) as at:
        paused = at.assign()
        at.until_sent(10, paused)
        paused.send_signal(signal.SIGSTOP)
        at.until_lapsed()
        other = at.finish()
        sent, files = at.sent(), at.published()
        paused.send_signal(signal.SIGCONT)
        ended = end(paused)
        assert ended.code == 6
        assert "has lost its lease" in ended.err
        assert at.sent() == sent
        assert at.published() == files
        assert_finished(at, other)
