"""Opens what a run sends to: the carrier of the settings, or a sandbox carrier.

The libraries are imported when a target is opened: the command line shows its help without them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchlic.job import EmbeddedSandbox
    from batchlic.runs.target import Target
    from batchlic.sandbox import SandboxConfig
    from batchlic.settings import Settings


@contextmanager
def open_target(
    sandbox: EmbeddedSandbox | SandboxConfig | None, settings: Settings | None = None
) -> Iterator[Target]:
    """The carrier of the settings; with `sandbox`, a sandbox carrier that ends with the block.

    `settings` are those to use; None: they are read. Raises UsageError for missing credentials.
    """
    from batchlic.runs.target import Target

    if sandbox is None:
        from batchlic.settings import load_settings

        settings = settings or load_settings()
        credentials = settings.credentials()
        secrets = tuple(settings.secrets())
        yield Target(settings.base_url, settings.base_url, credentials, secrets, settings.profile)
        return
    from batchlic.job import EmbeddedSandbox
    from batchlic.sandbox import embedded

    config = _config_of(sandbox) if isinstance(sandbox, EmbeddedSandbox) else sandbox
    with embedded(config) as base_url:
        yield sandbox_target(base_url)


def sandbox_target(base_url: str) -> Target:
    """The sandbox carrier at an address on this machine. It takes any credentials."""
    from batchlic.carrier.credentials import Credentials, Secret
    from batchlic.journal import SANDBOX
    from batchlic.runs.target import Target

    name = Secret("sandbox")
    credentials = Credentials(client_id=name, client_secret=name, username=name, password=name)
    return Target(SANDBOX, base_url, credentials, ())


def _config_of(sandbox: EmbeddedSandbox) -> SandboxConfig:
    from batchlic.sandbox import CallbackConfig, LatencyConfig, LimitConfig, SandboxConfig

    return SandboxConfig(
        seed=sandbox.seed,
        limits=LimitConfig(rate=sandbox.rate, burst=sandbox.burst),
        latency=LatencyConfig(base_s=sandbox.latency),
        callbacks=CallbackConfig(
            delay_s=sandbox.callback_delay,
            jitter_s=sandbox.callback_delay,
            failure_share=sandbox.callback_failures,
        ),
    )
