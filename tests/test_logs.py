"""The log: JSON lines for its owner, and no secret in any of them."""

import io
import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.chunker.status import DeviceStatus
from batchlic.errors import ExitCode
from batchlic.logs import REDACTED, Redaction, RunLog

SECRETS = [
    "planted-id",
    "planted-secret",
    "planted-user",
    "planted-password",
    "planted-acc",
    "planted-access",
]


def redacted(**event: object) -> str:
    return json.dumps(Redaction(SECRETS)(None, "info", dict(event)))


texts = st.sampled_from(SECRETS).flatmap(
    lambda secret: st.tuples(st.text(max_size=5), st.text(max_size=5)).map(lambda t: t[0] + secret + t[1])
)
values = st.recursive(
    texts | st.integers() | st.none() | texts.map(ValueError) | texts.map(str.encode),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(max_size=5), inner),
)


@given(values)
def test_f_no_logged_value_shows_a_secret_at_any_depth(value: object) -> None:
    assert not any(secret in redacted(event="e", value=value) for secret in SECRETS)


def test_f_a_secret_that_starts_with_another_is_redacted_whole() -> None:
    assert redacted(event="planted-access") == json.dumps({"event": REDACTED})


@pytest.mark.parametrize(
    "key", ["password", "PASSWORD", "client_secret", "access_token", "Authorization", "VZ-M2M-Token"]
)
def test_f_a_key_named_like_a_secret_is_redacted(key: str) -> None:
    assert redacted(event="e", inner={key: "unheard of"}) == redacted(event="e", inner={key: REDACTED})


def test_f_a_logged_traceback_shows_no_secret(tmp_path: Path) -> None:
    people = io.StringIO()
    with RunLog(tmp_path / "run.log", secrets=SECRETS, people=people) as log:
        try:
            raise ValueError("the carrier answered planted-password")  # noqa: TRY301 - as it comes
        except ValueError:
            log.logger(run_id="r").exception("failed")
    written = (tmp_path / "run.log").read_text() + people.getvalue()
    assert "planted" not in written
    assert "Traceback" in written


def test_the_log_is_json_for_its_owner_and_people_see_warnings(tmp_path: Path) -> None:
    people = io.StringIO()
    for _ in range(2):
        with RunLog(tmp_path / "run.log", secrets=[], people=people) as log:
            logger = log.logger(run_id="r-1")
            logger.info("answered", batch_id=3)
            logger.warning("slow")
    lines = [json.loads(line) for line in (tmp_path / "run.log").read_text().splitlines()]
    assert [(line["event"], line["run_id"]) for line in lines] == [("answered", "r-1"), ("slow", "r-1")] * 2
    assert stat.S_IMODE((tmp_path / "run.log").stat().st_mode) == 0o600
    assert "slow" in people.getvalue()
    assert "answered" not in people.getvalue()


def test_people_see_the_values_of_enums_and_not_their_names() -> None:
    counts = {DeviceStatus.ACCEPTED: 10}
    cleaned = Redaction([])(
        None, "info", {"exit_code": ExitCode.OK, "statuses": counts, "is": DeviceStatus.FAILED}
    )
    assert repr(cleaned) == "{'exit_code': 0, 'statuses': {'accepted': 10}, 'is': 'failed'}"


def test_a_log_on_a_full_disk_loses_lines_with_one_message() -> None:
    people = io.StringIO()
    with RunLog(Path("/dev/full"), secrets=[], people=people) as log:
        for _ in range(3):
            log.logger(run_id="r").info("answered")
    assert people.getvalue() == "/dev/full: log lines are lost: No space left on device\n"
