"""Jobs from files and options: valid values, and errors that say what to do."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from batchlic.carrier.catalog import Action, LicenseType
from batchlic.cli.options import GuardOptions, InventoryOptions, PlanOptions, RunOptions
from batchlic.errors import ExitCode, RefusedToStart, UsageError
from batchlic.job import Job, Limits, load_job, make_job
from batchlic.reader import IdKind

LIFETIME, FLEXIBLE = "SIMSec-IoT-Lt", "SIMSec-IoT"


def job(**tables: Any) -> Job:  # noqa: ANN401 - whatever a job file may hold
    content = {"action": "assign", "inventory": {"files": ["fleet.csv"]}, **tables}
    return make_job(content, {}, where="test")


def write(folder: Path, text: str) -> Path:
    path = folder / "nightly.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("tables", "advice"),
    [
        ({"inventry": {}}, "inventry: there is no such key; did you mean inventory?"),
        ({"limits": {"max_rte": 3}}, "limits.max_rte: there is no such key; did you mean max_rate?"),
        ({"license": {"acount": "123"}}, "license.acount: there is no such key; did you mean account?"),
        ({"limits": {"xyzzy": 3}}, "limits.xyzzy: there is no such key; known: batch_size"),
        ({"license": {"sku": "SIMSec-IoT-LT"}}, "unknown SKU SIMSec-IoT-LT; did you mean SIMSec-IoT-Lt?"),
        ({"inventory": {}}, "inventory.files: is missing"),
        ({"notify": {"too": ["ops"]}}, "notify.too: there is no such key; did you mean to?"),
    ],
)
def test_a_misspelled_key_is_refused_with_a_suggestion(tables: dict[str, Any], advice: str) -> None:
    with pytest.raises(UsageError) as error:
        job(**tables)
    assert advice in str(error.value)


@pytest.mark.parametrize(
    ("table", "key", "bad", "good"),
    [
        ("inventory", "files", [[]], [["a.csv"], ["a.csv", "-"]]),
        ("license", "account", ["12", "1" * 33], ["123", "1" * 32]),
        ("limits", "batch_size", [0, 101, 1.5, "many"], [1, 100]),
        ("limits", "max_concurrency", [0, 1001], [1, 1000]),
        ("limits", "max_rate", [0, -1, float("nan")], [0.001, 1e6]),
        ("limits", "fixed_rate", [0, -1], [0.5]),
        ("limits", "give_up_after", [0, -1], [0.1, 86400]),
        ("limits", "max_rejects", [-1], [0, 10**9]),
        ("inventory", "min_rows", [-1, 1.5, "many"], [0, 10**9]),
        ("notify", "to", [["o-p"], ["1st"], "ops"], [[], ["ops", "OPS_2"]]),
        ("notify", "on", [["always"]], [[], ["failure", "recovered"]]),
        ("notify", "heartbeat", ["", "a b"], ["fleet"]),
        ("notify", "heartbeat_ok", [[7], [-1], ["all"]], [[], [0, 3]]),
        ("sandbox", "rate", [0], [1]),
        ("sandbox", "burst", [0], [1]),
        ("sandbox", "latency", [-1], [0]),
    ],
)
def test_every_value_is_checked_at_its_limits(table: str, key: str, bad: list[Any], good: list[Any]) -> None:
    others = {"files": ["fleet.csv"]} if table == "inventory" else {}
    for value in good:
        assert getattr(getattr(job(**{table: {**others, key: value}}), table), key) == value
    for value in bad:
        with pytest.raises(UsageError, match=rf"^test: {table}\.{key}(\.0)?: "):
            job(**{table: {**others, key: value}})


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "../x", "\x1b[31m", "x" * 65])
def test_a_job_name_that_is_unsafe_as_a_file_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="name: "):
        job(name=name)


def test_migrate_takes_two_skus_and_the_others_take_one() -> None:
    assert job(action="migrate", license={"from_sku": FLEXIBLE, "to_sku": LIFETIME}).action == "migrate"
    for license in ({"sku": FLEXIBLE}, {"from_sku": FLEXIBLE}, {}):
        with pytest.raises(UsageError, match="migrate takes from_sku and to_sku"):
            job(action="migrate", license=license)
    with pytest.raises(UsageError, match="nothing to migrate"):
        job(action="migrate", license={"from_sku": FLEXIBLE, "to_sku": FLEXIBLE})
    strange: list[dict[str, Any]] = [{"from_sku": FLEXIBLE}, {"order": "unassign-first"}, {"restore": True}]
    for license in strange:
        with pytest.raises(UsageError, match="assign takes sku"):
            job(license=license)


def test_e_a_migration_to_lifetime_needs_consent_and_is_final() -> None:
    license = {"from_sku": FLEXIBLE, "to_sku": LIFETIME, "restore": True}
    given = job(action="migrate", license=license)
    with pytest.raises(RefusedToStart, match=LIFETIME):
        given.require_consent([FLEXIBLE])
    given.require_consent([])
    assert given.restorable_skus == {FLEXIBLE}
    assert job(action="migrate", license={**license, "restore": False}).restorable_skus == set()


def test_a_job_can_add_the_skus_of_its_contract() -> None:
    own = job(license={"sku": "OUR-SKU", "other_skus": {"OUR-SKU": "lifetime"}})
    assert own.skus["OUR-SKU"] is LicenseType.LIFETIME
    with pytest.raises(RefusedToStart):
        own.require_consent(["OUR-SKU"])


def test_e_only_lifetime_licenses_need_consent() -> None:
    with pytest.raises(RefusedToStart, match="consent_lifetime = true") as refusal:
        job().require_consent([FLEXIBLE, LIFETIME])
    assert refusal.value.exit_code is ExitCode.REFUSED
    job().require_consent([FLEXIBLE])
    job(license={"consent_lifetime": True}).require_consent([LIFETIME])


def test_inventory_paths_are_relative_to_the_job_file(tmp_path: Path) -> None:
    files = '["../a.csv", "/b.csv", "-", "s3://bucket/c.csv"]'
    loaded = load_job(write(tmp_path, f'action = "assign"\n[inventory]\nfiles = {files}'), {})
    assert loaded.inventory.files == [str(tmp_path.parent / "a.csv"), "/b.csv", "-", "s3://bucket/c.csv"]
    assert loaded.name == "nightly"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("action =", "nightly.toml: not a TOML file"),
        ('action = "asign"\n[inventory]\nfiles = ["a"]', "nightly.toml: action: "),
        ('action = "assign"\ninventory = 3', "nightly.toml: inventory: "),
    ],
)
def test_an_error_names_the_file_and_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        load_job(write(tmp_path, text), {})
    assert message in str(error.value)


def test_a_missing_job_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml: can't read the job file: No such file"):
        load_job(tmp_path / "nowhere.toml", {})


def test_given_options_override_the_file_and_others_change_nothing(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"""
        action = "assign"
        inventory = {{files = ["a.csv"], id_kind = "iccid", columns = {{imei = "A", iccid = "B"}}}}
        license = {{account = "111", sku = "{FLEXIBLE}"}}
        limits = {{batch_size = 10, max_rate = 5, max_rejects = 7}}
        """,
    )
    flags = RunOptions(
        plan=PlanOptions(
            inventory=InventoryOptions(account="222", column=["imei=Device, IMEI=1"]),
            batch_size=20,
            max_rejects=0,
            consent_lifetime=True,
        ),
    )
    loaded = load_job(path, flags.values())
    assert (loaded.license.account, loaded.license.sku, loaded.license.consent_lifetime) == (
        "222",
        FLEXIBLE,
        True,
    )
    assert (loaded.limits.batch_size, loaded.limits.max_rate, loaded.limits.max_rejects) == (20, 5, 0)
    assert loaded.inventory.id_kind is IdKind.ICCID
    columns = {role.value: column for role, column in loaded.inventory.columns.items()}
    assert columns == {"imei": "Device, IMEI=1", "iccid": "B"}
    assert load_job(path, PlanOptions().values()) == load_job(path, {})


@pytest.mark.parametrize("given", ["imei", "imei=", "=x", "mac=x"])
def test_a_wrong_column_option_names_the_possible_columns(given: str) -> None:
    with pytest.raises(UsageError, match="imei, iccid, account, sku"):
        InventoryOptions(column=[given]).values()


def test_request_action_follows_the_action_of_the_job() -> None:
    assert job().request_action is Action.ASSIGN
    assert job(action="unassign").request_action is Action.UNASSIGN
    moving = job(action="migrate", license={"from_sku": FLEXIBLE, "to_sku": LIFETIME})
    assert moving.request_action is Action.UNASSIGN
    assert moving.read_options().sku == moving.read_options().only_sku == FLEXIBLE


@pytest.mark.parametrize(
    ("given", "percentage"),
    [
        ("20%", "20%"),
        (" 12.5 %", "12.5%"),
        (0.2, "20%"),
        ("0.2", "20%"),
        (0, "0%"),
        ("0%", "0%"),
        ("300%", "300%"),
    ],
)
def test_a_change_is_a_percentage_or_a_share(given: object, percentage: str) -> None:
    inventory = {"files": ["fleet.csv"], "max_change": given}
    assert job(inventory=inventory).inventory.max_change == percentage


@pytest.mark.parametrize(
    "given",
    ["20", 20, 1, 1.0, "1", -0.1, "-5%", "", "%", "twenty", "1e2%", "12,5%", "٣%", True, float("nan"), []],
)
def test_a_change_that_may_mean_two_things_is_refused(given: object) -> None:
    with pytest.raises(UsageError, match=r"^test: inventory\.max_change: .* is not a share: give"):
        job(inventory={"files": ["fleet.csv"], "max_change": given})


def test_a_wrong_change_as_an_option_names_the_option() -> None:
    with pytest.raises(UsageError, match=r"^--max-change: '20' is not a share"):
        PlanOptions(guards=GuardOptions(max_change="20")).values()


def test_a_job_keeps_its_guards_in_the_journal() -> None:
    inventory = {"files": ["a"], "min_rows": 5, "max_change": "250%", "allow_empty": True}
    given = job(inventory=inventory)
    assert Job.model_validate(given.model_dump(mode="json")) == given


@pytest.mark.parametrize(
    "table",
    [
        {"to": ["slack://hunter2"]},
        {"urls": "json://hunter2"},
        {"heartbeat": "https://hc-ping.com/hunter2"},
        {"targets": {"ops": ["mailtos://u:hunter2@example.com"]}},
    ],
)
def test_f_a_url_in_a_job_file_is_refused_and_not_shown(table: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="as BATCHLIC_NOTIFY_URLS, or as BATCHLIC_NOTIFY_URL_OPS") as error:
        job(notify=table)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(("given", "stored"), [("20%", "20%"), ("0.2", "20%"), (0.05, "5%"), ("0%", "0%")])
def test_headroom_is_a_share_of_the_limit(given: object, stored: str) -> None:
    assert Limits.model_validate({"headroom": given}).headroom == stored


@pytest.mark.parametrize(
    "limits", [{"headroom": "100%"}, {"headroom": 20}, {"headroom": "20%", "fixed_rate": 5}]
)
def test_headroom_that_can_not_be_left_is_refused(limits: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="headroom"):
        Limits.model_validate(limits)


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"action": "asign"}, "action: 'asign' is none of 'assign', 'unassign', 'migrate', 'sync'"),
        ({"license": {"account": "12"}}, "license.account: '12' is too short: give at least 3 characters"),
        ({"limits": {"batch_size": 101}}, "limits.batch_size: 101 is too large: give at most 100"),
        ({"limits": {"max_rate": "fast"}}, "limits.max_rate: 'fast' is no number"),
        ({"inventory": {"files": "f.csv"}}, 'inventory.files: is not a list: write ["…"]'),
        ({"inventory": {"files": ["f.csv"], "id_kind": "https://a:hunter2@b"}}, "the URL is none of"),
    ],
)
def test_a_wrong_value_is_shown_with_what_is_right(tables: dict[str, Any], says: str) -> None:
    content = {"action": "assign", "inventory": {"files": ["fleet.csv"]}, **tables}
    with pytest.raises(UsageError) as caught:
        make_job(content, {}, where="job")
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)
