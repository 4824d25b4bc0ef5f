"""The functions of `batchlic.api.actions` for programs with an event loop, that of asyncio or trio."""

from typing import Literal, Unpack

from batchlic.api.calls import Access, Plan, Sandbox, Start, StrPath
from batchlic.api.inventories import Inventories, Inventory
from batchlic.api.jobs import Action, job_of, job_to_plan, loaded_job
from batchlic.api.options import AnyOptions, JobOptions
from batchlic.api.run import Run, opened_run, planned_async, running_async
from batchlic.events import Subscriber
from batchlic.job import Job
from batchlic.settings import Settings


async def assign_async(
    inventory: Inventory,
    *,
    account: str | None = None,
    sku: str | None = None,
    run_dir: StrPath | None = None,
    name: str | None = None,
    consent_lifetime: bool = False,
    sandbox: Sandbox = False,
    profile: str | None = None,
    settings: Settings | None = None,
    on_event: Subscriber | None = None,
    **options: Unpack[JobOptions],
) -> Run:
    """As `assign`, without blocking the event loop, which is that of asyncio or trio."""
    inventories = Inventories.of(inventory)
    job = job_of(
        "assign",
        name,
        inventories,
        {"account": account, "sku": sku, "consent_lifetime": consent_lifetime or None, **options},
    )
    access = Access.of(settings, profile, sandbox)
    return await running_async(
        Start(access=access, job=job, inventories=inventories, run_dir=run_dir, on_event=on_event)
    )


async def unassign_async(
    inventory: Inventory,
    *,
    account: str | None = None,
    sku: str | None = None,
    run_dir: StrPath | None = None,
    name: str | None = None,
    sandbox: Sandbox = False,
    profile: str | None = None,
    settings: Settings | None = None,
    on_event: Subscriber | None = None,
    **options: Unpack[JobOptions],
) -> Run:
    """As `unassign`, without blocking the event loop, which is that of asyncio or trio."""
    inventories = Inventories.of(inventory)
    job = job_of("unassign", name, inventories, {"account": account, "sku": sku, **options})
    access = Access.of(settings, profile, sandbox)
    return await running_async(
        Start(access=access, job=job, inventories=inventories, run_dir=run_dir, on_event=on_event)
    )


async def migrate_async(
    inventory: Inventory,
    *,
    from_sku: str,
    to_sku: str,
    account: str | None = None,
    order: Literal["auto", "unassign-first"] = "auto",
    restore: bool = False,
    run_dir: StrPath | None = None,
    name: str | None = None,
    consent_lifetime: bool = False,
    sandbox: Sandbox = False,
    profile: str | None = None,
    settings: Settings | None = None,
    on_event: Subscriber | None = None,
    **options: Unpack[JobOptions],
) -> Run:
    """As `migrate`, without blocking the event loop, which is that of asyncio or trio."""
    inventories = Inventories.of(inventory)
    job = job_of(
        "migrate",
        name,
        inventories,
        {
            "account": account,
            "from_sku": from_sku,
            "to_sku": to_sku,
            "order": order,
            "restore": restore,
            "consent_lifetime": consent_lifetime or None,
            **options,
        },
    )
    access = Access.of(settings, profile, sandbox)
    return await running_async(
        Start(access=access, job=job, inventories=inventories, run_dir=run_dir, on_event=on_event)
    )


async def sync_async(
    inventory: Inventory,
    *,
    account: str | None = None,
    sku: str | None = None,
    max_removals: int | str = "1%",
    remove: bool = True,
    assign: bool = True,
    run_dir: StrPath | None = None,
    name: str | None = None,
    consent_lifetime: bool = False,
    sandbox: Sandbox = False,
    profile: str | None = None,
    settings: Settings | None = None,
    on_event: Subscriber | None = None,
    **options: Unpack[JobOptions],
) -> Run:
    """As `sync`, without blocking the event loop, which is that of asyncio or trio."""
    inventories = Inventories.of(inventory)
    job = job_of(
        "sync",
        name,
        inventories,
        {
            "account": account,
            "sku": sku,
            "max_removals": max_removals,
            "remove": remove,
            "assign": assign,
            "consent_lifetime": consent_lifetime or None,
            **options,
        },
    )
    access = Access.of(settings, profile, sandbox)
    return await running_async(
        Start(access=access, job=job, inventories=inventories, run_dir=run_dir, on_event=on_event)
    )


async def run_async(
    job: StrPath | Job,
    *,
    inventory: Inventory | None = None,
    account: str | None = None,
    sku: str | None = None,
    run_dir: StrPath | None = None,
    name: str | None = None,
    consent_lifetime: bool = False,
    sandbox: Sandbox = False,
    profile: str | None = None,
    settings: Settings | None = None,
    on_event: Subscriber | None = None,
    **options: Unpack[AnyOptions],
) -> Run:
    """As `run`, without blocking the event loop, which is that of asyncio or trio."""
    content = {"account": account, "sku": sku, "consent_lifetime": consent_lifetime or None, **options}
    inventories = Inventories([], {}) if inventory is None else Inventories.of(inventory)
    loaded = loaded_job(job, name, inventories, content)
    access = Access.of(settings, profile, sandbox)
    return await running_async(
        Start(access=access, job=loaded, inventories=inventories, run_dir=run_dir, on_event=on_event)
    )


async def plan_async(
    inventory: Inventory | Job,
    *,
    action: Action = "assign",
    account: str | None = None,
    sku: str | None = None,
    licenses: bool = False,
    run_dir: StrPath | None = None,
    name: str | None = None,
    consent_lifetime: bool = False,
    sandbox: Sandbox = False,
    profile: str | None = None,
    settings: Settings | None = None,
    **options: Unpack[AnyOptions],
) -> Run:
    """As `plan`, without blocking the event loop, which is that of asyncio or trio."""
    content = {"account": account, "sku": sku, "consent_lifetime": consent_lifetime or None, **options}
    job, inventories = job_to_plan(inventory, action, name, content)
    access = Access.of(settings, profile, sandbox)
    return await planned_async(
        Plan(access=access, job=job, inventories=inventories, run_dir=run_dir, licenses=licenses)
    )


async def apply_async(
    run: StrPath | Run,
    *,
    sandbox: Sandbox = False,
    profile: str | None = None,
    settings: Settings | None = None,
    on_event: Subscriber | None = None,
) -> Run:
    """As `apply`, without blocking the event loop, which is that of asyncio or trio."""
    opened = opened_run(run, settings, profile, sandbox)
    return await opened.apply_async(on_event=on_event)


async def resume_async(
    run: StrPath | Run,
    *,
    new_ledger: bool = False,
    canary_failures: int | None = None,
    sandbox: Sandbox = False,
    profile: str | None = None,
    settings: Settings | None = None,
    on_event: Subscriber | None = None,
) -> Run:
    """As `resume`, without blocking the event loop, which is that of asyncio or trio."""
    opened = opened_run(run, settings, profile, sandbox)
    return await opened.resume_async(
        new_ledger=new_ledger, canary_failures=canary_failures, on_event=on_event
    )
