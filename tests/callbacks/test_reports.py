"""What messages report of a run: other statuses, faults, several devices, and what can't be judged."""

import json
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from batchlic.callbacks.messages import StoredMessage
from batchlic.callbacks.store import Store
from batchlic.callbacks.verdicts import WHOLE_REQUEST_CODES
from batchlic.carrier.answers import Answer, Outcome
from batchlic.errors import ExitCode
from batchlic.ledger import Ledger
from batchlic.ledger.files import device_rows
from batchlic.runs.folder import RunFolder
from batchlic.runs.reconcile import reconcile, unconfirmed
from batchlic.runs.status import status
from batchlic.runs.verify import verify
from tests.callbacks.builders import (
    ACCOUNT,
    BEGAN,
    accepted,
    body,
    failure,
    fleet,
    listener,
    lost,
    message_about,
    messages_of,
    statuses,
    submitted_run,
)
from tests.endtoend.program import Ended, batchlic, keys
from tests.loopback import NO_CERTIFICATES

SECOND = 1_000_000
GUID = "c3f3d17c-79ff-4b35-82df-94446785b6e0"
ACCOUNT_FAULT: dict[str, Any] = {"status": "Failed", "error_code": "REQUEST_FAILED.AccountNotFound"}


def reconciled(folder: RunFolder, *messages: StoredMessage) -> dict[str, int]:
    with closing(Store.open(str(folder.path / "store.db"))) as store:
        if messages:
            store.write(list(messages))
        reconcile(folder, store)
    return statuses(folder)


def under(*request_ids: str) -> Callable[[int], list[Answer | None]]:
    """Answers that accept each batch under its requestId."""
    return lambda batch_id: [
        Answer(outcome=Outcome.ACCEPTED, http_status=200, request_id=request_ids[batch_id - 1])
    ]


def device(folder: RunFolder, place: int) -> tuple[str, str]:
    """IMEI and ICCID of a planned device."""
    imei, iccid = pl.read_parquet(folder.plan).select("imei", "iccid").row(place)
    return str(imei), str(iccid)


def status_of(folder: RunFolder, place: int) -> str:
    return str(pl.read_parquet(folder.results)["status"][place])


# -- other statuses -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("REQUEST_ONHOLD.Review", "on hold"),
        ("REQUEST_CANCELLED.ByOperator", "canceled"),
        ("Parked", "unknown status 'Parked'"),
        ("", "no status"),
    ],
)
@pytest.mark.parametrize(("answered", "stays"), [(accepted, "accepted"), (lost, "in_doubt")])
def test_another_status_settles_nothing_and_is_shown(
    tmp_path: Path, given: str, shown: str, answered: Callable[[int], list[Answer | None]], stays: str
) -> None:
    folder = submitted_run(tmp_path / "run", 3, answered=answered)
    reported = [message._replace(status=given) for message in messages_of(folder)[:2]]
    assert reconciled(folder, *reported) == {stays: 3}
    assert status(folder).undecided == {shown: 2}
    assert verify(folder).findings == []


@pytest.mark.slow
@pytest.mark.parametrize(("fields", "expected"), [({}, "confirmed"), (failure(), "failed")])
def test_a_definite_message_wins_in_any_order(tmp_path: Path, fields: dict[str, Any], expected: str) -> None:
    folder = submitted_run(tmp_path / "template", 1)
    [message] = messages_of(folder)
    definite = message._replace(received_at=BEGAN + 5 * SECOND, **fields)
    on_hold = message._replace(status="REQUEST_ONHOLD.X")
    late = message._replace(status="REQUEST_CANCELLED.X", received_at=BEGAN + 9 * SECOND)
    for number, order in enumerate(permutations([definite, on_hold, late])):
        here = submitted_run(tmp_path / f"run-{number}", 1)
        for one in (*order, order[0]):
            reconciled(here, one)
        assert statuses(here) == {expected: 1}
        assert status(here).undecided == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (("REQUEST_ONHOLD.X", "REQUEST_CANCELLED.X", "Parked"), "canceled"),
        (("REQUEST_CANCELLED.X", "REQUEST_ONHOLD.X"), "canceled"),
        (("REQUEST_ONHOLD.X", "Parked"), "on hold"),
    ],
)
def test_canceled_counts_more_than_on_hold_and_that_more_than_unknown(
    tmp_path: Path, given: tuple[str, ...], shown: str
) -> None:
    folder = submitted_run(tmp_path / "template", 1)
    [message] = messages_of(folder)
    reported = [message._replace(status=one, received_at=BEGAN + at) for at, one in enumerate(given)]
    for number, order in enumerate(permutations(reported)):
        here = submitted_run(tmp_path / f"run-{number}", 1)
        for one in order:
            reconciled(here, one)
        assert status(here).undecided == {shown: 1}


def test_the_latest_of_several_unknown_statuses_is_shown(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 1)
    [message] = messages_of(folder)
    late = message._replace(status="Parked", received_at=BEGAN + 9 * SECOND)
    reconciled(folder, late)
    reconciled(folder, message._replace(status="Queued"))
    assert status(folder).undecided == {"unknown status 'Parked'": 1}


@pytest.mark.slow
def test_what_is_undecided_outlives_the_store(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 1)
    [message] = messages_of(folder)
    reconciled(folder, message._replace(status="REQUEST_ONHOLD.X"))
    (folder.path / "store.db").unlink()
    reconciled(folder)
    assert status(folder).undecided == {"on hold": 1}


def test_a_lost_request_on_hold_is_no_failure_of_it(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 1, answered=lambda _: [None, None])
    [message] = messages_of(folder)
    failed = message._replace(request_id="one", **failure())
    held = message._replace(request_id="two", status="REQUEST_ONHOLD.X")
    assert reconciled(folder, failed, held) == {"in_doubt": 1}
    assert reconciled(folder, held._replace(**failure())) == {"failed": 1}


def test_a_device_on_hold_is_not_listed_as_unconfirmed(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 2)
    first, second = messages_of(folder)
    reconciled(folder, first._replace(status="REQUEST_ONHOLD.X"))
    assert unconfirmed(folder)["imei"].to_list() == [second.imei]


# -- faults ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["Success", "Failed", "REQUEST_ONHOLD.X", "Completed", ""])
@pytest.mark.parametrize(
    "fault",
    [
        {"error_code": "INPUT_INVALID.Device.Account.Invalid"},
        {"error_code": "INPUT_INVALID.DeviceState.Invalid", "error_message": "not active"},
    ],
)
def test_a_device_refused_inside_an_accepted_batch_fails(
    tmp_path: Path, given: str, fault: dict[str, Any]
) -> None:
    folder = submitted_run(tmp_path / "run", 3)
    message = messages_of(folder)[1]._replace(status=given, **fault)
    assert reconciled(folder, message) == {"accepted": 2, "failed": 1}
    found = pl.read_parquet(folder.results).row(1, named=True)
    assert {name: found[name] or "" for name in fault} == fault
    assert status(folder).exit_code == ExitCode.INCOMPLETE


def test_d_a_vague_fault_beside_a_success_fails_no_device(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 3)
    no_error, vague, _ = messages_of(folder)
    no_error = no_error._replace(status="Success", error_code="0", error_message="Success")
    vague = vague._replace(status="Success", error_code="17", error_message="see the log")
    assert reconciled(folder, no_error, vague) == {"accepted": 2, "confirmed": 1}
    assert status(folder).undecided == {"status Success with a fault": 1}


@pytest.mark.slow
def test_the_ledger_has_no_license_of_a_device_that_a_callback_failed(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.db").close()
    folder = submitted_run(tmp_path / "run", 4, carrier="https://carrier.example/api")
    refused, held, unknown, served = messages_of(folder)
    fault: dict[str, Any] = {"status": "Success", "error_code": "INPUT_INVALID.Device.Account.Invalid"}
    held, unknown = held._replace(status="REQUEST_ONHOLD.X"), unknown._replace(status="Parked")
    reconciled(folder, refused._replace(**fault), held, unknown, served)
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        known = pl.concat(device_rows(ledger))
    assert set(known["imei"]) == {held.imei, unknown.imei, served.imei}


@pytest.mark.parametrize("code", ["REQUEST_FAILED.AccountNotFound", "INPUT_INVALID.Account.NotDefined"])
def test_a_fault_of_the_whole_request_fails_its_devices(tmp_path: Path, code: str) -> None:
    folder = submitted_run(tmp_path / "run", 4, batch_size=2)
    served = messages_of(folder, batch_size=2)[0]
    whole = message_about("request-1", status="Failed", error_code=code)
    assert reconciled(folder, whole, served) == {"accepted": 2, "confirmed": 1, "failed": 1}
    assert [status_of(folder, place) for place in (0, 1)] == ["confirmed", "failed"]
    assert status(folder).unjudged == []


def test_no_device_code_is_a_fault_of_a_whole_request() -> None:
    assert "REQUEST_FAILED.AccountName" in WHOLE_REQUEST_CODES
    assert not [code for code in WHOLE_REQUEST_CODES if "Device" in code]


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "Failed", "error_code": "REQUEST_FAILED.UnexpectedError", "error_message": "sorry"},
        {"status": "Failed", "error_code": "INPUT_INVALID.Device.Account.Invalid"},
        {"status": "Failed"},
        {"status": "Success"},
        {"status": "REQUEST_CANCELLED.X"},
    ],
)
def test_any_other_message_that_names_no_device_is_not_judged(tmp_path: Path, fields: dict[str, str]) -> None:
    folder = submitted_run(tmp_path / "run", 2)
    assert reconciled(folder, message_about("request-1", **fields)) == {"accepted": 2}
    [unjudged] = status(folder).unjudged
    assert (unjudged.request_id, unjudged.reason) == ("request-1", "names no device")
    assert (unjudged.error_code or "") == fields.get("error_code", "")


def test_a_fault_about_one_device_is_no_fault_of_the_whole_request(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 2)
    message = messages_of(folder)[0]._replace(**ACCOUNT_FAULT)
    assert reconciled(folder, message) == {"accepted": 1, "failed": 1}


# -- requestIds -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("given", [GUID, GUID.upper(), f"{{{GUID}}}"])
@pytest.mark.parametrize(
    "write",
    [
        str,
        str.upper,
        str.title,
        lambda text: "{" + text + "}",
        lambda text: "{" + text.upper() + "}",
        lambda text: f"({text})",
        lambda text: f"  {text}\t",
        lambda text: f'"{text}"',
        lambda text: text.replace("-", ""),
    ],
)
def test_a_requestid_is_matched_however_it_is_written(
    tmp_path: Path, given: str, write: Callable[[str], str]
) -> None:
    folder = submitted_run(tmp_path / "run", 1, answered=under(given))
    written = write(given.strip("{}"))
    assert reconciled(folder, messages_of(folder)[0]._replace(request_id=written)) == {"confirmed": 1}
    assert pl.read_parquet(folder.results)["request_id"].to_list() == [given]


def test_a_requestid_that_is_no_guid_keeps_its_dashes(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 2, batch_size=1, answered=under("request-11", "request-1-1"))
    [_, second] = messages_of(folder)
    assert reconciled(folder, second._replace(request_id="REQUEST-1-1")) == {"accepted": 1, "confirmed": 1}
    assert status_of(folder, 1) == "confirmed"


@pytest.mark.slow
@pytest.mark.parametrize("write", [str.upper, lambda text: "{" + text + "}"])
def test_a_known_request_of_another_run_is_known_in_any_case(
    tmp_path: Path, write: Callable[[str], str]
) -> None:
    submitted_run(tmp_path / "other", 1, answered=under(GUID))
    folder = submitted_run(tmp_path / "run", 1, answered=lost)
    assert reconciled(folder, messages_of(folder)[0]._replace(request_id=write(GUID))) == {"in_doubt": 1}


@pytest.mark.slow
def test_one_lost_request_in_two_spellings_is_one_failure(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 1, answered=lambda _: [None, None])
    [message] = messages_of(folder, **failure())
    spellings = [message._replace(request_id=text) for text in (GUID, GUID.upper())]
    assert reconciled(folder, *spellings) == {"in_doubt": 1}


# -- devices --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, failure(), {"status": "REQUEST_ONHOLD.X"}])
@pytest.mark.parametrize("kind", ["imei", "iccid"])
def test_a_message_is_about_each_device_that_it_names(
    tmp_path: Path, fields: dict[str, str], kind: str
) -> None:
    folder = submitted_run(tmp_path / "run", 4)
    ids = [device(folder, place)[kind == "iccid"] for place in range(3)]
    further = " ".join(f"{kind.upper()}:{text}" for text in ids[1:])
    message = message_about("request-1", further_ids=f"MDN:555 {further}", **{kind: ids[0]}, **fields)
    expected = {"Success": "confirmed", "Failed": "failed"}.get(message.status, "accepted")
    reconciled(folder, message)
    assert [status_of(folder, place) for place in range(4)] == [expected] * 3 + ["accepted"]
    assert sum(status(folder).undecided.values()) == (3 if expected == "accepted" else 0)


@pytest.mark.slow
@pytest.mark.parametrize(("fields", "expected"), [({}, "confirmed"), (failure(), "failed")])
@pytest.mark.parametrize("kind", ["imei", "iccid"])
def test_a_message_is_also_about_devices_of_other_requests(
    tmp_path: Path, fields: dict[str, str], expected: str, kind: str
) -> None:
    folder = submitted_run(tmp_path / "run", 6, batch_size=2)
    ids = [device(folder, place)[kind == "iccid"] for place in (0, 2, 5)]
    further = " ".join(f"{kind.upper()}:{text}" for text in ids[1:])
    reconciled(folder, message_about("request-1", further_ids=further, **{kind: ids[0]}, **fields))
    found = pl.read_parquet(folder.results)
    is_named = [expected if place in {0, 2, 5} else "accepted" for place in range(6)]
    assert found["status"].to_list() == is_named
    assert found["request_id"].to_list() == [f"request-{place // 2 + 1}" for place in range(6)]
    assert status(folder).unjudged == []


def test_a_message_about_other_requests_only_is_not_judged(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 6, batch_size=2)
    (imei, _), (other, _) = device(folder, 2), device(folder, 5)
    assert reconciled(folder, message_about("request-1", imei, further_ids=f"IMEI:{other}")) == {
        "accepted": 6
    }
    assert [one.reason for one in status(folder).unjudged] == ["names no device of its request"]


@pytest.mark.slow
def test_a_device_in_doubt_is_not_settled_beside_one_of_another_request(tmp_path: Path) -> None:
    folder = submitted_run(
        tmp_path / "run", 2, batch_size=1, answered=lambda batch: accepted(1) if batch == 1 else lost(2)
    )
    (imei, _), (other, _) = device(folder, 0), device(folder, 1)
    message = message_about("request-1", imei, further_ids=f"IMEI:{other}")
    assert reconciled(folder, message) == {"confirmed": 1, "in_doubt": 1}


def test_both_identifiers_of_one_device_are_one_device(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 2)
    assert reconciled(folder, message_about("request-1", *device(folder, 0))) == {
        "accepted": 1,
        "confirmed": 1,
    }


@pytest.mark.slow
def test_the_identifiers_of_two_devices_in_pairs_are_two_devices(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 3)
    (imei, iccid), (other_imei, other_iccid) = device(folder, 0), device(folder, 1)
    further = f"IMEI:{other_imei} ICCID:{other_iccid}"
    assert reconciled(folder, message_about("request-1", imei, iccid, further_ids=further)) == {
        "accepted": 1,
        "confirmed": 2,
    }


def test_a_further_iccid_names_a_further_device(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 3)
    (imei, iccid), (_, other) = device(folder, 0), device(folder, 1)
    message = message_about("request-1", imei, iccid, further_ids=f"ICCID:{other}")
    assert reconciled(folder, message) == {"accepted": 1, "confirmed": 2}


def test_an_iccid_that_may_be_a_new_sim_names_no_other_device(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 2)
    message = message_about("request-1", device(folder, 0)[0], device(folder, 1)[1])
    reconciled(folder, message)
    assert [status_of(folder, place) for place in (0, 1)] == ["confirmed", "accepted"]


@pytest.mark.slow
def test_a_device_listed_by_iccid_only_is_found_beside_another_imei(tmp_path: Path) -> None:
    def by_one_identifier(path: Path, devices: int) -> Path:
        first, second = pl.read_csv(fleet(path, devices), infer_schema=False).iter_rows()
        path.write_text(f"imei,iccid\n{first[0]},\n,{second[1]}\n")
        return path

    folder = submitted_run(tmp_path / "run", 2, inventory=by_one_identifier)
    message = message_about("request-1", device(folder, 0)[0], device(folder, 1)[1])
    assert reconciled(folder, message) == {"confirmed": 2}


@pytest.mark.slow
def test_each_device_of_a_message_about_a_lost_request_is_proven(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 3, answered=lost)
    (imei, _), (other, _) = device(folder, 0), device(folder, 1)
    message = message_about("strange", imei, further_ids=f"IMEI:{other}")
    assert reconciled(folder, message) == {"confirmed": 2, "in_doubt": 1}


@pytest.mark.parametrize(
    "write",
    [
        lambda imei: imei[:14],
        lambda imei: imei[:14] + "01",
        lambda imei: "0" + imei,
    ],
)
def test_an_imei_is_found_with_another_number_of_digits(tmp_path: Path, write: Callable[[str], str]) -> None:
    folder = submitted_run(tmp_path / "run", 2)
    imei, _ = device(folder, 1)
    reconciled(folder, message_about("request-1", write(imei)))
    assert [status_of(folder, place) for place in (0, 1)] == ["accepted", "confirmed"]


def test_an_imei_that_lost_its_leading_zero_as_a_number_is_found(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 2, inventory=partial(fleet, tac="012345"))
    imei, _ = device(folder, 1)
    assert imei.startswith("0")
    reconciled(folder, message_about("request-1", str(int(imei))))
    assert [status_of(folder, place) for place in (0, 1)] == ["accepted", "confirmed"]


# -- what can't be judged -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "names no device"),
        ({"imei": "490154203237518"}, "names no device of its request"),
        ({"further_ids": "MDN:5551234567"}, "names no device of its request"),
        ({"account_name": "0000999999-00001"}, "was sent to the address of another account"),
    ],
)
def test_a_message_that_can_not_be_judged_is_counted(
    tmp_path: Path, fields: dict[str, str], reason: str
) -> None:
    folder = submitted_run(tmp_path / "run", 1)
    named = {"imei": device(folder, 0)[0]} if "account_name" in fields else {}
    message = message_about("{REQUEST-1}", **named | fields)
    assert reconciled(folder, message) == {"accepted": 1}
    assert [unjudged.reason for unjudged in status(folder).unjudged] == [reason]
    assert verify(folder).findings == []


def test_a_message_about_an_unknown_request_is_not_about_the_run(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 1)
    reconciled(folder, message_about("request-of-another-run"))
    assert status(folder).unjudged == []


@pytest.mark.slow
def test_unjudged_messages_count_once_and_outlive_the_store(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 1)
    message = message_about("request-1")
    for _ in range(2):
        reconciled(folder, message, message._replace(received_at=BEGAN + 9 * SECOND, raw="another"))
    (folder.path / "store.db").unlink()
    reconciled(folder, message._replace(received_at=BEGAN + 10 * SECOND))
    assert len(status(folder).unjudged) == 3


# -- commands -------------------------------------------------------------------------------------------


def command(tmp_path: Path, *arguments: str) -> Ended:
    return batchlic(*arguments, settings=keys("http://127.0.0.1:1/api"), cwd=tmp_path)


def post_of_each_kind(tmp_path: Path) -> None:
    """Post a message of each kind about a run of six devices to a listener."""
    folder = submitted_run(tmp_path / "run", 6)
    imeis = [device(folder, place)[0] for place in range(6)]
    fault = {"faultcode": "UnifiedWebService.INPUT_INVALID.Device.Account.Invalid", "faultstring": "no"}
    bodies = [
        body("REQUEST-1", imeis[0]),
        body("request-1", imeis[1], status="REQUEST_ONHOLD.Review"),
        body("request-1", imeis[2], status="REQUEST_CANCELLED.ByOperator"),
        body("request-1", imeis[3], status="Parked"),
        body("request-1", imeis[4], faultResponse=fault),
        body("request-1", deviceIds=[]),
        [body("request-1", imeis[5]), body("request-1", imeis[5])],
    ]
    with listener(tmp_path / "store.db") as running:
        answers = [
            httpx.post(
                f"{running.url}/{ACCOUNT}/", json=one, trust_env=False, verify=NO_CERTIFICATES
            ).status_code
            for one in bodies
        ]
    assert answers == [200] * len(bodies)


@pytest.mark.slow
def test_reconcile_counts_what_callbacks_leave_open(tmp_path: Path) -> None:
    post_of_each_kind(tmp_path)
    done = command(tmp_path, "reconcile", "run", "--store", "store.db", "--json")
    assert done.code == ExitCode.INCOMPLETE, done.err
    assert json.loads(done.out)["statuses"] == {"accepted": 4, "confirmed": 1, "failed": 1}
    assert "1 canceled, 1 on hold, 1 unknown status 'Parked'" in done.err
    assert "2 messages could not be judged: see batchlic status run" in done.err


@pytest.mark.slow
def test_status_counts_what_callbacks_leave_open(tmp_path: Path) -> None:
    post_of_each_kind(tmp_path)
    command(tmp_path, "reconcile", "run", "--store", "store.db")
    shown = command(tmp_path, "status", "run").out
    for line in ("1 device: on hold", "1 device: canceled", "1 device: unknown status 'Parked'"):
        assert line in shown
    assert "2 messages could not be judged:" in shown
    assert "request request-1: names no device" in shown
    found = json.loads(command(tmp_path, "status", "run", "--json").out)
    assert found["undecided"] == {"canceled": 1, "on hold": 1, "unknown status 'Parked'": 1}
    assert [one["reason"] for one in found["unjudged"]] == ["names no device"] * 2


@pytest.mark.slow
def test_callbacks_unjudged_lists_the_messages_as_they_came(tmp_path: Path) -> None:
    post_of_each_kind(tmp_path)
    done = command(tmp_path, "callbacks", "unjudged", "--store", "store.db")
    assert done.code == 0, done.err
    assert done.out.count("request request-1") == 5
    assert '"deviceIds":[]' in done.out
    found = json.loads(command(tmp_path, "callbacks", "unjudged", "--store", "store.db", "--json").out)
    reasons = [one["reason"] for one in found]
    assert reasons[:3] == ["on hold", "canceled", "unknown status 'Parked'"]
    assert reasons[3:] == ["names no IMEI and no ICCID, success", "names no IMEI and no ICCID, no status"]


def test_callbacks_unjudged_says_that_there_are_none(tmp_path: Path) -> None:
    Store.open(str(tmp_path / "store.db")).close()
    done = command(tmp_path, "callbacks", "unjudged", "--store", "store.db")
    assert (done.code, done.out) == (0, "")
    assert "reports its success or failure" in done.err
