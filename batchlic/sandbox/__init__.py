"""A carrier to run against: the real paths, hidden limits, faults on request, exact books.

`embedded` runs a sandbox as a child process, so importing this package needs no server library.
`batchlic.sandbox.app` is the sandbox itself; `batchlic.sandbox.server` serves it over TCP.
"""

from batchlic.sandbox.config import (
    CallbackConfig,
    Fault,
    LatencyConfig,
    LimitConfig,
    LimitKind,
    LimitScope,
    Poison,
    QuotaHeaders,
    RetryHint,
    RuleConfig,
    SandboxConfig,
    ThrottleShape,
    TokenConfig,
)
from batchlic.sandbox.embedded import embedded

__all__ = [
    "CallbackConfig",
    "Fault",
    "LatencyConfig",
    "LimitConfig",
    "LimitKind",
    "LimitScope",
    "Poison",
    "QuotaHeaders",
    "RetryHint",
    "RuleConfig",
    "SandboxConfig",
    "ThrottleShape",
    "TokenConfig",
    "embedded",
]
