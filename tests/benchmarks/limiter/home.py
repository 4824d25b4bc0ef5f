"""Known limits, by name."""

from tests.benchmarks.limiter.hidden import Hidden, Hint, Part

_BUCKET = (Part("bucket", 200.0, burst=20),)
_SMALL_BUCKET = (Part("bucket", 20.0, burst=5),)
_WINDOW = (Part("fixed", 200.0, period_s=1.0),)
_SLIDING = (Part("sliding", 200.0, period_s=1.0),)
_CALLS = (Part("calls", calls=10),)
_FIVE_A_MINUTE = 5 / 60

HOME = [
    Hidden(_BUCKET, "token bucket"),
    Hidden(_WINDOW, "window of 1 s"),
    Hidden((Part("fixed", 200.0, period_s=5.0),), "window of 5 s"),
    Hidden(_WINDOW, "window, Retry-After", hint=Hint.ROUNDED),
    Hidden(_WINDOW, "the same for a minute", hint=Hint.ROUNDED, requests=12_000),
    Hidden(_SLIDING, "sliding window"),
    Hidden(_CALLS, "10 calls at once"),
    Hidden(_BUCKET, "bucket that halves", changes=((10.0, 0.5),)),
    Hidden(_BUCKET, "bucket that triples", changes=((7.0, 3.0),)),
    Hidden(_WINDOW, "window that halves", changes=((10.0, 0.5),)),
    Hidden(_WINDOW, "window that triples", changes=((7.0, 3.0),)),
    Hidden((), "latency +5 ms a call", growth_s=0.005),
    Hidden((), "latency +50 ms a call", growth_s=0.05, requests=1000),
    Hidden((), "no limit"),
    Hidden(_BUCKET, "bucket, Retry-After", hint=Hint.ROUNDED),
    Hidden(_SLIDING, "sliding, Retry-After", hint=Hint.ROUNDED),
    Hidden(_CALLS, "10 calls, Retry-After", hint=Hint.ROUNDED),
    Hidden(_BUCKET, "bucket, 429s count", counts_refused=True),
    Hidden(_SLIDING, "sliding, 429s count", counts_refused=True),
    Hidden((Part("fixed", 200.0, period_s=0.1),), "window of 0.1 s"),
    Hidden(_SLIDING, "sliding, 150 ms", latency_s=0.15),
    Hidden(_WINDOW, "window, 150 ms", latency_s=0.15),
    Hidden(_BUCKET, "bucket, slow 429s", latency_s=0.02, network_s=0.03),
    Hidden(_WINDOW, "window, slow 429s", latency_s=0.02, network_s=0.03),
    Hidden(_SLIDING, "sliding, slow 429s", latency_s=0.02, network_s=0.03),
    Hidden(_SMALL_BUCKET, "20/s bucket", requests=400),
    Hidden(_SMALL_BUCKET, "20/s, Retry-After", requests=400, hint=Hint.ROUNDED),
    Hidden((Part("bucket", 5.0, burst=5),), "5/s bucket", requests=100),
    Hidden((Part("fixed", _FIVE_A_MINUTE, period_s=60.0),), "5/min window", requests=20),
    Hidden(
        (Part("bucket", _FIVE_A_MINUTE, burst=1),), "5/min, then 5/s", requests=200, changes=((120.0, 60.0),)
    ),
]
"""Unless the name says otherwise: 200 requests/s for 20 s, answers after 50 ms, refusals after 1 ms."""

WEAK = [
    Hidden((Part("bucket", 20.0, burst=20),), "penalty box, silent", requests=4000, penalty_s=10.0),
    Hidden(
        (Part("bucket", 20.0, burst=20),),
        "penalty box, told",
        requests=4000,
        penalty_s=10.0,
        hint=Hint.ROUNDED,
    ),
    Hidden((Part("bucket", 50.0, burst=10),), "4 nodes of 50/s", requests=12_000, nodes=4),
    Hidden((Part("bucket", 100.0, burst=20),), "other clients", requests=4200, others=60.0),
    Hidden((Part("bucket", 1.0, burst=1),), "1/s, no burst", requests=100),
    Hidden((Part("fixed", 200.0, period_s=0.25),), "50 per 0.25 s"),
    Hidden((Part("bucket", 374.0, burst=1),), "374/s, no burst, rounded", requests=12_000, hint=Hint.ROUNDED),
    Hidden((Part("bucket", 374.0, burst=1),), "374/s, no burst, date", requests=12_000, hint=Hint.DATE),
    Hidden((Part("bucket", 147.0, burst=1),), "147/s for two, rounded", 9000, hint=Hint.ROUNDED, processes=2),
    Hidden((Part("fixed", 100.0, period_s=0.5),), "50 per 0.5 s, date", requests=6000, hint=Hint.DATE),
    Hidden((Part("fixed", 30.0, period_s=0.9),), "27 per 0.9 s, date", requests=2000, hint=Hint.DATE),
    Hidden(
        (Part("bucket", 20.0, burst=5), Part("fixed", 10.0, period_s=60.0)),
        "20/s and 600/min",
        requests=2400,
    ),
    Hidden(_BUCKET, "2% spurious 429s", requests=6000, spurious=0.02),
]
"""Limits under which a limiter easily sends too little or is refused too often."""

LEARNED = [
    hidden
    for hidden in (*HOME, *WEAK)
    if hidden.name
    in {
        "token bucket",
        "window of 1 s",
        "sliding window",
        "10 calls at once",
        "bucket, Retry-After",
        "10 calls, Retry-After",
        "20/s bucket",
        "20/s, Retry-After",
        "penalty box, silent",
        "penalty box, told",
        "4 nodes of 50/s",
        "1/s, no burst",
        "374/s, no burst, rounded",
        "50 per 0.5 s, date",
    }
]
"""Limits under which a second run starts from what the first one has found."""

SHARED = [
    Hidden(_BUCKET, "token bucket"),
    Hidden(_WINDOW, "window of 1 s"),
    Hidden(_SLIDING, "sliding window"),
]
"""Limits that processes share."""
