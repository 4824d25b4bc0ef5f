"""Any bytes give one answer that claims no more than they prove."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from batchlic.carrier.already import Asked
from batchlic.carrier.answers import Outcome, Reply
from batchlic.carrier.catalog import Action
from batchlic.carrier.interpretation import answer_from_reply
from tests.carrier.script import GUID, IMEIS

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
)
names = st.sampled_from(
    [
        "errorCode",
        "errorMessage",
        "fault",
        "code",
        "message",
        "description",
        "nextAccessTime",
        "error",
        "requestId",
    ]
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4)
)
bodies = st.binary(max_size=200) | values.map(msgspec.json.encode)
headers = st.dictionaries(
    st.sampled_from(["content-type", "retry-after", "date", "ratelimit-reset", "content-encoding"]),
    st.text(max_size=30),
)
replies = st.builds(Reply, status=st.integers(100, 999), headers=headers, body=bodies, complete=st.booleans())


@given(replies)
def test_any_reply_gives_one_answer_of_limited_size(reply: Reply) -> None:
    answer = answer_from_reply(reply, asked=lambda: Asked(Action.ASSIGN, "SIMSec-IoT", IMEIS))
    assert answer.http_status == reply.status
    assert len(answer.error_message or "") <= 500
    assert (answer.error_message or "").isprintable() or not any(c < " " for c in answer.error_message or "")
    assert (answer.outcome is Outcome.REFUSED) == (answer.blame is not None)
    assert answer.rejected is not None or answer.outcome is not Outcome.UNAUTHORIZED
    assert answer.rejected is None or answer.outcome in {Outcome.UNAUTHORIZED, Outcome.AMBIGUOUS}
    assert answer.outcome is Outcome.REFUSED or not (answer.is_known or answer.says_already)
    assert answer.outcome is Outcome.AMBIGUOUS or not answer.is_duplicate


@given(replies)
def test_only_a_complete_2xx_with_a_request_id_is_accepted(reply: Reply) -> None:
    answer = answer_from_reply(reply)
    if answer.outcome is Outcome.ACCEPTED:
        assert 200 <= reply.status < 300
        assert reply.complete
        assert answer.request_id


@given(replies)
def test_only_a_4xx_is_refused(reply: Reply) -> None:
    assert answer_from_reply(reply).outcome is not Outcome.REFUSED or 400 <= reply.status < 500


@given(replies)
def test_an_incomplete_reply_never_becomes_more_definite(reply: Reply) -> None:
    """What is definite without its body stays definite, and no cut 2xx or 5xx becomes so."""
    cut = answer_from_reply(Reply(reply.status, {}, reply.body[:5], complete=False))
    assert (cut.outcome is Outcome.AMBIGUOUS) == (
        reply.status < 300
        or reply.status in {300, 303, 304, 305, 306, 409, 499}
        or 309 <= reply.status < 400
        or (reply.status >= 500 and reply.status not in {509, 511})
    )


@given(replies)
def test_nothing_but_a_5xx_or_408_leaves_doubt_about_a_rejected_token(reply: Reply) -> None:
    answer = answer_from_reply(reply)
    if answer.rejected and answer.outcome is Outcome.AMBIGUOUS:
        assert reply.status == 408 or reply.status >= 500


def test_a_request_is_not_read_unless_it_is_refused() -> None:
    def never() -> Asked:
        raise AssertionError("read without need")

    for status in (200, 301, 401, 404, 409, 429, 500, 503):
        answer_from_reply(
            Reply(status, {}, msgspec.json.encode({"requestId": GUID, "errorMessage": IMEIS[0]})),
            asked=never,
        )
