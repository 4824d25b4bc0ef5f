"""The functions of the public API: an action on an inventory, a plan, and how a run goes on."""

from typing import Literal, Unpack

from batchlic.api.calls import Access, Plan, Sandbox, Start, StrPath
from batchlic.api.inventories import Inventories, Inventory
from batchlic.api.jobs import Action, job_of, job_to_plan, loaded_job
from batchlic.api.options import AnyOptions, JobOptions
from batchlic.api.run import Run, opened_run, planned, running
from batchlic.events import Subscriber
from batchlic.job import Job
from batchlic.settings import Settings


def assign(
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
    """Assign a license to every device of the inventories.

    A call with the `run_dir` of a run continues that run, if devices and options are the same.

    Args:
        inventory: A path, a URL, a DataFrame or LazyFrame of polars, any object that hands over an Arrow
            stream (pandas, DuckDB, pyarrow), or a list of them.
        account: Account for rows without one. Default: that of the settings.
        sku: SKU for rows without one.
        run_dir: Folder of the run. Default: a new folder in the state folder (docs/reference/jobs.md).
        name: Name of the job. Two runs of the same name never run at the same time.
        consent_lifetime: Allow Lifetime licenses, which are irrevocable.
        sandbox: Send to a sandbox carrier on this machine: True, or an `EmbeddedSandbox`.
        profile: Name of the profile with the login. Default: BATCHLIC_PROFILE.
        settings: Login and address of the carrier, instead of those of the environment.
        on_event: Is called with each event of the run, in a thread of its own (batchlic.events).
        **options: The other options of a job.

    Returns:
        The run when it has ended: also if devices failed, and if it stopped early. Look at its `status`,
        `exit_code` and `results`, or call `raise_for_status`.

    Raises:
        UsageError: Arguments, settings or an inventory are wrong (exit code 2).
        RefusedToStart: Nothing was sent: no consent, too few licenses, a guard, or a run at work on the
            same folder, job or devices (exit code 4).
        CredentialsRejected: The carrier rejects the login (exit code 5).
        StoppedEarly: The run could not begin, because the disk is full, for example (exit code 6).
    """
    inventories = Inventories.of(inventory)
    job = job_of(
        "assign",
        name,
        inventories,
        {"account": account, "sku": sku, "consent_lifetime": consent_lifetime or None, **options},
    )
    access = Access.of(settings, profile, sandbox)
    return running(Start(access=access, job=job, inventories=inventories, run_dir=run_dir, on_event=on_event))


def unassign(
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
    """Take the license of every device of the inventories. Lifetime licenses can't be taken.

    Args:
        inventory: A path, a URL, a DataFrame or LazyFrame of polars, any object that hands over an Arrow
            stream (pandas, DuckDB, pyarrow), or a list of them.
        account: Account for rows without one. Default: that of the settings.
        sku: SKU for rows without one.
        run_dir: Folder of the run. Default: a new folder in the state folder (docs/reference/jobs.md).
        name: Name of the job. Two runs of the same name never run at the same time.
        sandbox: Send to a sandbox carrier on this machine: True, or an `EmbeddedSandbox`.
        profile: Name of the profile with the login. Default: BATCHLIC_PROFILE.
        settings: Login and address of the carrier, instead of those of the environment.
        on_event: Is called with each event of the run, in a thread of its own (batchlic.events).
        **options: The other options of a job.

    Returns:
        The run when it has ended: also if devices failed, and if it stopped early. Look at its `status`,
        `exit_code` and `results`, or call `raise_for_status`.

    Raises:
        UsageError: Arguments, settings or an inventory are wrong (exit code 2).
        RefusedToStart: Nothing was sent: a Lifetime license, a guard, or a run at work on the same
            folder, job or devices (exit code 4).
        CredentialsRejected: The carrier rejects the login (exit code 5).
        StoppedEarly: The run could not begin, because the disk is full, for example (exit code 6).
    """
    inventories = Inventories.of(inventory)
    job = job_of("unassign", name, inventories, {"account": account, "sku": sku, **options})
    access = Access.of(settings, profile, sandbox)
    return running(Start(access=access, job=job, inventories=inventories, run_dir=run_dir, on_event=on_event))


def migrate(
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
    """Move every device of the inventories from one SKU to another. See docs/how-to/migrate.md.

    Args:
        inventory: A path, a URL, a DataFrame or LazyFrame of polars, any object that hands over an Arrow
            stream (pandas, DuckDB, pyarrow), or a list of them.
        from_sku: SKU that the devices have now.
        to_sku: SKU that the devices get.
        account: Account for rows without one. Default: that of the settings.
        order: License to handle first; auto: the new one while enough are left.
        restore: Undo the first step of a device if its second step fails.
        run_dir: Folder of the run. Default: a new folder in the state folder (docs/reference/jobs.md).
        name: Name of the job. Two runs of the same name never run at the same time.
        consent_lifetime: Allow Lifetime licenses, which are irrevocable.
        sandbox: Send to a sandbox carrier on this machine: True, or an `EmbeddedSandbox`.
        profile: Name of the profile with the login. Default: BATCHLIC_PROFILE.
        settings: Login and address of the carrier, instead of those of the environment.
        on_event: Is called with each event of the run, in a thread of its own (batchlic.events).
        **options: The other options of a job.

    Returns:
        The run when it has ended: also if devices failed, and if it stopped early. Look at its `status`,
        `exit_code` and `results`, or call `raise_for_status`.

    Raises:
        UsageError: Arguments, settings or an inventory are wrong (exit code 2).
        RefusedToStart: Nothing was sent: no consent, too few licenses, a guard, or a run at work on the
            same folder, job or devices (exit code 4).
        CredentialsRejected: The carrier rejects the login (exit code 5).
        StoppedEarly: The run could not begin, because the disk is full, for example (exit code 6).
    """
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
    return running(Start(access=access, job=job, inventories=inventories, run_dir=run_dir, on_event=on_event))


def sync(
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
    """Make the licenses equal to the inventories. See docs/how-to/sync.md.

    Devices of the inventories without a license get one. Devices that are gone from the inventories, and are
    licensed according to the ledger, lose theirs.

    Args:
        inventory: A path, a URL, a DataFrame or LazyFrame of polars, any object that hands over an Arrow
            stream (pandas, DuckDB, pyarrow), or a list of them.
        account: Account for rows without one. Default: that of the settings.
        sku: SKU for rows without one.
        max_removals: Most devices that lose their license: a number, or a percentage of each account and SKU.
        remove: Take the licenses of devices that are gone from the inventories.
        assign: Assign licenses to devices without one.
        run_dir: Folder of the run. Default: a new folder in the state folder (docs/reference/jobs.md).
        name: Name of the job. Two runs of the same name never run at the same time.
        consent_lifetime: Allow Lifetime licenses, which are irrevocable.
        sandbox: Send to a sandbox carrier on this machine: True, or an `EmbeddedSandbox`.
        profile: Name of the profile with the login. Default: BATCHLIC_PROFILE.
        settings: Login and address of the carrier, instead of those of the environment.
        on_event: Is called with each event of the run, in a thread of its own (batchlic.events).
        **options: The other options of a job.

    Returns:
        The run when it has ended: also if devices failed, and if it stopped early. Look at its `status`,
        `exit_code` and `results`, or call `raise_for_status`.

    Raises:
        UsageError: Arguments, settings or an inventory are wrong (exit code 2).
        RefusedToStart: Nothing was sent: no consent, too few licenses, a guard, or a run at work on the
            same folder, job or devices (exit code 4).
        CredentialsRejected: The carrier rejects the login (exit code 5).
        StoppedEarly: The run could not begin, because the disk is full, for example (exit code 6).
    """
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
    return running(Start(access=access, job=job, inventories=inventories, run_dir=run_dir, on_event=on_event))


def run(
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
    """Run a job file, or a Job.

    Args:
        job: Path of the job file, or a Job.
        inventory: What to read instead of the inventories of the job; as for `assign`.
        account: Account for rows without one, instead of that of the job.
        sku: SKU for rows without one, instead of that of the job.
        run_dir: Folder of the run. Default: a new folder in the state folder (docs/reference/jobs.md).
        name: Name of the job, instead of its own. Two runs of the same name never run at the same time.
        consent_lifetime: Allow Lifetime licenses, which are irrevocable.
        sandbox: Send to a sandbox carrier on this machine: True, or an `EmbeddedSandbox`.
        profile: Name of the profile with the login. Default: BATCHLIC_PROFILE.
        settings: Login and address of the carrier, instead of those of the environment.
        on_event: Is called with each event of the run, in a thread of its own (batchlic.events).
        **options: Other options, instead of those of the job.

    Returns:
        The run when it has ended: also if devices failed, and if it stopped early. Look at its `status`,
        `exit_code` and `results`, or call `raise_for_status`.

    Raises:
        UsageError: Arguments, settings or an inventory are wrong (exit code 2).
        RefusedToStart: Nothing was sent: no consent, too few licenses, a guard, or a run at work on the
            same folder, job or devices (exit code 4).
        CredentialsRejected: The carrier rejects the login (exit code 5).
        StoppedEarly: The run could not begin, because the disk is full, for example (exit code 6).
    """
    content = {"account": account, "sku": sku, "consent_lifetime": consent_lifetime or None, **options}
    inventories = Inventories([], {}) if inventory is None else Inventories.of(inventory)
    loaded = loaded_job(job, name, inventories, content)
    access = Access.of(settings, profile, sandbox)
    return running(
        Start(access=access, job=loaded, inventories=inventories, run_dir=run_dir, on_event=on_event)
    )


def plan(
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
    """Write the plan of a run, and send nothing. `apply` sends it later. See docs/how-to/review.md.

    Args:
        inventory: As for `assign`; or a Job, or the path of a job file, which ends in .toml.
        action: What to do with the devices, unless a job says so.
        account: Account for rows without one. Default: that of the settings.
        sku: SKU for rows without one.
        licenses: Ask the carrier how many licenses are left. Only this needs credentials.
        run_dir: Folder of the run. Default: a new folder in the state folder (docs/reference/jobs.md).
        name: Name of the job. Two runs of the same name never run at the same time.
        consent_lifetime: Allow Lifetime licenses, which are irrevocable.
        sandbox: Plan for a sandbox carrier on this machine.
        profile: Name of the profile with the login. Default: BATCHLIC_PROFILE.
        settings: Login and address of the carrier, instead of those of the environment.
        **options: The other options of a job.

    Returns:
        The run, with the status `planned`. Look at its `plan`, `rejects` and `summary`, and call its `apply`.

    Raises:
        UsageError: Arguments, settings or an inventory are wrong (exit code 2).
        RefusedToStart: No consent, a guard, or too few licenses (exit code 4).
        CredentialsRejected: The carrier rejects the login (exit code 5).
    """
    content = {"account": account, "sku": sku, "consent_lifetime": consent_lifetime or None, **options}
    job, inventories = job_to_plan(inventory, action, name, content)
    access = Access.of(settings, profile, sandbox)
    return planned(Plan(access=access, job=job, inventories=inventories, run_dir=run_dir, licenses=licenses))


def apply(
    run: StrPath | Run,
    *,
    sandbox: Sandbox = False,
    profile: str | None = None,
    settings: Settings | None = None,
    on_event: Subscriber | None = None,
) -> Run:
    """Send exactly the plan that `plan` wrote, unless it is out of date. See docs/how-to/review.md.

    Args:
        run: The planned run, its folder, or the name of its folder in the state folder.
        sandbox: Send to a sandbox carrier on this machine, for which the plan was made.
        profile: Name of the profile with the login. Default: BATCHLIC_PROFILE.
        settings: Login and address of the carrier, instead of those of the environment.
        on_event: Is called with each event of the run, in a thread of its own (batchlic.events).

    Returns:
        The run when it has ended, as for `assign`.

    Raises:
        RefusedToStart: The plan is out of date, was changed, or lacks its approval (exit code 4).
        BatchlicError: As for `assign`.
    """
    opened = opened_run(run, settings, profile, sandbox)
    return opened.apply(on_event=on_event)


def resume(
    run: StrPath | Run,
    *,
    new_ledger: bool = False,
    canary_failures: int | None = None,
    sandbox: Sandbox = False,
    profile: str | None = None,
    settings: Settings | None = None,
    on_event: Subscriber | None = None,
) -> Run:
    """Continue a run that stopped. A finished run is left as it is. See docs/how-to/recovery.md.

    Args:
        run: The run, its folder, or the name of its folder in the state folder.
        new_ledger: Allow a ledger without records of licenses that are already assigned.
        canary_failures: Send the others if at most so many devices of the canary failed or are in doubt.
        sandbox: Continue with a sandbox carrier on this machine, if the run began with one.
        profile: Name of the profile with the login. Default: BATCHLIC_PROFILE.
        settings: Login and address of the carrier, instead of those of the environment.
        on_event: Is called with each event of the run, in a thread of its own (batchlic.events).

    Returns:
        The run when it has ended, as for `assign`.

    Raises:
        RunFolderError: There is no such run, or a file of it is damaged (exit code 2).
        BatchlicError: As for `assign`.
    """
    opened = opened_run(run, settings, profile, sandbox)
    return opened.resume(new_ledger=new_ledger, canary_failures=canary_failures, on_event=on_event)
