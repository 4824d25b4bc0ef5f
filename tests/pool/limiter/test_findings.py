"""The limit that was found, in the words that people read."""

import pytest

from batchlic.pool.limiter.findings import Calls, Finding, NoLimit, Rate, Shut, Window


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        (NoLimit(), "no limit found"),
        (Calls(10), "10 requests at a time"),
        (Rate(202.4), "202 requests a second"),
        (Rate(0.25), "15 requests a minute"),
        (Rate(0.25, is_spaced=True), "15 requests a minute, without a burst"),
        (Rate(1 / 1800), "2 requests an hour"),
        (Shut(), "the carrier lets nothing in at present"),
        (Window(300, 60.0, is_fixed=True), "300 requests a minute, fixed window"),
        (Window(1_000, 5.0), "1,000 requests in 5 s, window"),
        (Window(20, 1.0, is_fixed=False), "20 requests a second, sliding window"),
    ],
)
def test_a_finding_says_kind_and_figure(finding: Finding, words: str) -> None:
    assert str(finding) == words
