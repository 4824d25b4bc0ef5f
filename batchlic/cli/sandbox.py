"""The command that serves a sandbox carrier."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from batchlic.cli.help import Panel, Section, examples
from batchlic.cli.options import with_option_groups
from batchlic.runs import signals

if TYPE_CHECKING:
    from batchlic.sandbox import LimitConfig

app = typer.Typer()


@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """The hidden limits, and what the answers reveal of them."""

    rate: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=Panel.LIMITS,
            metavar="REQUESTS",
            help="Hidden limit, requests per second.",
            show_default="no limit",
        ),
    ] = None
    limit_scope: Annotated[
        Literal["login", "account"],
        typer.Option(
            rich_help_panel=Panel.LIMITS,
            help="What the limits are for: the whole login, or each account.",
        ),
    ] = "login"
    account_rate: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=Panel.LIMITS,
            metavar="ACCOUNT=REQUESTS",
            help="Hidden limit of one account, requests per second. Repeatable.",
            show_default="that of --rate",
        ),
    ] = None
    limit: Annotated[
        Literal["token-bucket", "fixed-window", "sliding-window"],
        typer.Option(rich_help_panel=Panel.LIMITS, help="Kind of the rate limit."),
    ] = "token-bucket"
    burst: Annotated[
        int,
        typer.Option(
            rich_help_panel=Panel.LIMITS,
            metavar="REQUESTS",
            help="Requests that a token bucket admits at once.",
        ),
    ] = 20
    window: Annotated[
        float,
        typer.Option(
            rich_help_panel=Panel.LIMITS,
            metavar="SECONDS",
            help="Length of a window; its quota is length times rate.",
        ),
    ] = 1.0
    max_concurrent: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=Panel.LIMITS,
            metavar="REQUESTS",
            help="Most requests in flight.",
            show_default="no limit",
        ),
    ] = None
    change: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=Panel.LIMITS,
            metavar="SECOND=FACTOR",
            help="Multiply the limits from SECOND on. Repeatable.",
        ),
    ] = None
    retry_hint: Annotated[
        Literal["nothing", "seconds", "date", "next-access-time"],
        typer.Option(rich_help_panel=Panel.LIMITS, help="How a 429 says when to retry."),
    ] = "seconds"
    quota_headers: Annotated[
        Literal["nothing", "ratelimit", "x-ratelimit", "draft"],
        typer.Option(rich_help_panel=Panel.LIMITS, help="Headers about the remaining quota in every answer."),
    ] = "nothing"
    throttle_shape: Annotated[
        Literal["gateway", "bare-gateway", "license"],
        typer.Option(rich_help_panel=Panel.LIMITS, help="Body of a 429."),
    ] = "gateway"
    count_throttled: Annotated[
        bool,
        typer.Option(
            "--count-throttled",
            rich_help_panel=Panel.LIMITS,
            help="Count throttled requests against the rate, too.",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class TimeOptions:
    """Latency, and the lives of tokens, in seconds."""

    latency: Annotated[
        float, typer.Option(rich_help_panel=Panel.TIMES, metavar="SECONDS", help="Latency of an answer.")
    ] = 0.0
    jitter: Annotated[
        float,
        typer.Option(
            rich_help_panel=Panel.TIMES, metavar="SECONDS", help="Most random seconds added to the latency."
        ),
    ] = 0.0
    latency_growth: Annotated[
        float,
        typer.Option(
            rich_help_panel=Panel.TIMES, metavar="SECONDS", help="Seconds added per other request in flight."
        ),
    ] = 0.0
    access_token_life: Annotated[
        float,
        typer.Option(rich_help_panel=Panel.TIMES, metavar="SECONDS", help="Lifetime of an access token."),
    ] = 3600.0
    session_idle: Annotated[
        float,
        typer.Option(
            rich_help_panel=Panel.TIMES,
            metavar="SECONDS",
            help="Seconds without requests until a session ends.",
        ),
    ] = 1200.0
    slow_body: Annotated[
        float,
        typer.Option(
            rich_help_panel=Panel.TIMES, metavar="SECONDS", help="Seconds of a body with the fault slow-body."
        ),
    ] = 5.0
    outage: Annotated[
        float,
        typer.Option(
            rich_help_panel=Panel.TIMES,
            metavar="SECONDS",
            help="Seconds of an outage with the faults gateway-404 and session-flap.",
        ),
    ] = 2.0


@dataclass(frozen=True, kw_only=True)
class AccountOptions:
    """Accounts, licenses and devices, and how requests about them are treated."""

    deduplicate: Annotated[
        bool,
        typer.Option(
            "--deduplicate", rich_help_panel=Panel.ACCOUNTS, help="Execute each X-Request-ID only once."
        ),
    ] = False
    licenses: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=Panel.ACCOUNTS,
            metavar="[SKU=]LICENSES",
            help="Licenses bought of one SKU, or of each SKU. Repeatable.",
        ),
    ] = None
    account: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=Panel.ACCOUNTS,
            metavar="ACCOUNT",
            help="Account that exists. Repeatable.",
            show_default="every account",
        ),
    ] = None
    fault: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=Panel.ACCOUNTS,
            metavar="FAULT=SHARE",
            help="Share of requests with a fault, 0 to 1. Repeatable.",
        ),
    ] = None
    exclusive: Annotated[
        bool,
        typer.Option(
            "--exclusive", rich_help_panel=Panel.ACCOUNTS, help="Refuse a second SKU to a licensed device."
        ),
    ] = False
    no_permission: Annotated[
        bool,
        typer.Option(
            "--no-permission",
            rich_help_panel=Panel.ACCOUNTS,
            help="Refuse every request about licenses with 403.",
        ),
    ] = False
    poison_file: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=Panel.ACCOUNTS,
            metavar="PATH",
            help="File of devices whose batches are refused, one device per line.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class CallbackOptions:
    """How outcomes are reported by callback."""

    callback_delay: Annotated[
        float,
        typer.Option(
            rich_help_panel=Panel.CALLBACKS,
            metavar="SECONDS",
            help="Seconds until the callback for an outcome.",
        ),
    ] = 0.0
    callback_jitter: Annotated[
        float,
        typer.Option(
            rich_help_panel=Panel.CALLBACKS,
            metavar="SECONDS",
            help="Most random seconds added for each device.",
        ),
    ] = 0.0
    callback_early: Annotated[
        float,
        typer.Option(
            rich_help_panel=Panel.CALLBACKS,
            min=0,
            max=1,
            metavar="SHARE",
            help="Share of requests with callbacks before the answer.",
        ),
    ] = 0.0
    callback_repeats: Annotated[
        float,
        typer.Option(
            rich_help_panel=Panel.CALLBACKS,
            min=0,
            max=1,
            metavar="SHARE",
            help="Share of outcomes with two callbacks.",
        ),
    ] = 0.0
    callback_failures: Annotated[
        float,
        typer.Option(
            rich_help_panel=Panel.CALLBACKS,
            min=0,
            max=1,
            metavar="SHARE",
            help="Share of accepted devices that fail afterwards.",
        ),
    ] = 0.0
    callback_odd: Annotated[
        float,
        typer.Option(
            rich_help_panel=Panel.CALLBACKS,
            min=0,
            max=1,
            metavar="SHARE",
            help="Share of outcomes in an unusual form.",
        ),
    ] = 0.0
    callback_retry: Annotated[
        float,
        typer.Option(
            rich_help_panel=Panel.CALLBACKS,
            metavar="SECONDS",
            help="Seconds between a failed callback and the next of its three retries.",
        ),
    ] = 300.0


@app.command(
    rich_help_panel=Section.REHEARSE,
    epilog=examples(
        "# Admit 20 requests per second, and reset 1% of the connections:",
        "batchlic sandbox --port 9000 --rate 20 --fault reset-after=0.01",
    ),
)
@with_option_groups
def sandbox(
    *,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port on 127.0.0.1; 0 finds a free one.")
    ] = 0,
    limits: LimitOptions,
    times: TimeOptions,
    accounts: AccountOptions,
    callbacks: CallbackOptions,
    seed: Annotated[
        int, typer.Option(metavar="NUMBER", help="Seed that makes faults and ids reproducible.")
    ] = 0,
) -> None:
    """Serve a sandbox carrier on 127.0.0.1. Print its base URL to stdout."""
    from batchlic.sandbox import CallbackConfig, LatencyConfig, RuleConfig, SandboxConfig, TokenConfig
    from batchlic.sandbox.options import parse_fault, parse_licenses, read_poison_file
    from batchlic.sandbox.server import serve

    config = SandboxConfig(
        seed=seed,
        accounts=tuple(accounts.account or ()),
        poison=read_poison_file(accounts.poison_file) if accounts.poison_file else (),
        faults=dict(map(parse_fault, accounts.fault or ())),
        rules=RuleConfig(
            exclusive=accounts.exclusive,
            deduplicate=accounts.deduplicate,
            permission=not accounts.no_permission,
        ),
        tokens=TokenConfig(access_life_s=times.access_token_life, session_idle_s=times.session_idle),
        limits=_limits(limits),
        latency=LatencyConfig(
            base_s=times.latency,
            jitter_s=times.jitter,
            growth_s=times.latency_growth,
            slow_body_s=times.slow_body,
            outage_s=times.outage,
        ),
        callbacks=CallbackConfig(
            delay_s=callbacks.callback_delay,
            jitter_s=callbacks.callback_jitter,
            early_share=callbacks.callback_early,
            repeat_share=callbacks.callback_repeats,
            failure_share=callbacks.callback_failures,
            odd_share=callbacks.callback_odd,
            retry_s=callbacks.callback_retry,
        ),
    )
    if accounts.licenses:
        config = replace(config, licenses=parse_licenses(accounts.licenses))
    signals.end_server_at_signals()
    serve(config, port=port)


def _limits(options: LimitOptions) -> "LimitConfig":
    from batchlic.sandbox import (
        LimitConfig,
        LimitKind,
        LimitScope,
        QuotaHeaders,
        RetryHint,
        ThrottleShape,
    )
    from batchlic.sandbox.options import parse_account_rate, parse_change

    return LimitConfig(
        scope=LimitScope(options.limit_scope),
        account_rates=dict(map(parse_account_rate, options.account_rate or ())),
        rate=options.rate,
        kind=LimitKind(options.limit),
        burst=options.burst,
        window_s=options.window,
        max_concurrent=options.max_concurrent,
        changes=tuple(map(parse_change, options.change or ())),
        count_throttled=options.count_throttled,
        throttle_shape=ThrottleShape(options.throttle_shape),
        retry_hint=RetryHint(options.retry_hint),
        quota_headers=QuotaHeaders(options.quota_headers),
    )
