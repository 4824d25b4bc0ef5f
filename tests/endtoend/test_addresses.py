"""Runs of an inventory at an address: continued without it, compared with it, and without its secrets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from batchlic.sandbox.config import SandboxConfig
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    Ended,
    batchlic,
    begin_as_a_shell_does,
    contents,
    end,
    imei,
    keys,
    summary,
    totals,
    until,
)
from tests.forking import serving
from tests.reader.web import Web, answer
from tests.reader.web import serving as serving_web

OPTIONS = ("--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", "run")
SECRETS = ("us3r-4711", "passw0rd-4711", "s1gnature-4711", "fr4gment-4711")
BROKEN = "8.64508E+14"


def inventory(devices: int) -> bytes:
    return "\n".join(["IMEI", *map(imei, range(devices)), BROKEN, ""]).encode()


@pytest.fixture
def carrier() -> Iterator[str]:
    with serving(SandboxConfig()) as url:
        yield url


@pytest.fixture
def web() -> Iterator[Web]:
    with serving_web() as found:
        found.put_file("/fleet.csv", inventory(30))
        yield found


def with_secrets(address: str) -> str:
    user, password, signature, fragment = SECRETS
    return f"{address.replace('//', f'//{user}:{password}@')}?sig={signature}#{fragment}"


def assign(web: Web, carrier: str, cwd: Path, *options: str) -> Ended:
    address = with_secrets(f"{web.address}/fleet.csv")
    return batchlic("assign", address, *OPTIONS, *options, settings=keys(carrier), cwd=cwd)


def shown_secrets(folder: Path, *ended: Ended) -> list[tuple[str, str]]:
    texts = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    texts |= {f"out {at}": (one.out + one.err).encode() for at, one in enumerate(ended)}
    return [(name, secret) for name, text in texts.items() for secret in SECRETS if secret.encode() in text]


@pytest.mark.slow
def test_f_no_file_or_stream_of_a_run_shows_a_secret_of_its_address(
    tmp_path: Path, web: Web, carrier: str
) -> None:
    first = assign(web, carrier, tmp_path, "--json")
    commands = [
        ("status", "run", "--json"),
        ("resume", "run"),
        ("audit", "run", "--verify"),
        ("export", "run"),
        ("plan", with_secrets(f"{web.address}/fleet.csv"), *OPTIONS[:4], "--run-dir", "plan", "--json"),
        ("plan", with_secrets(f"{web.address}/nowhere.csv"), *OPTIONS[:4]),
        ("plan", with_secrets(f"{web.address}/nowhere.toml"), *OPTIONS[:4]),
    ]
    others = [batchlic(*command, settings=keys(carrier), cwd=tmp_path) for command in commands]
    assert [one.code for one in (first, *others)] == [3, 0, 3, 0, 0, 3, 2, 2]
    assert web.requests[0].login == ":".join(SECRETS[:2])
    assert shown_secrets(tmp_path, first, *others) == []
    assert summary(tmp_path / "run")["sources"] == [{"name": f"{web.address}/fleet.csv", "rows": 31}]


@pytest.mark.slow
def test_a_stopped_run_of_an_address_is_resumed_without_it(tmp_path: Path, web: Web) -> None:
    with serving(SandboxConfig()) as carrier:
        stopped = batchlic(
            "assign",
            with_secrets(f"{web.address}/fleet.csv"),
            *OPTIONS,
            settings={**keys(carrier), "BATCHLIC_PASSWORD": "wrong"},
            cwd=tmp_path,
        )
        del web.answers["/fleet.csv"]
        ended = batchlic("resume", "run", settings=keys(carrier), cwd=tmp_path)
        assert (stopped.code, ended.code) == (5, 3)
        assert totals(carrier)["devices"] == 30
    assert shown_secrets(tmp_path, stopped, ended) == []


@pytest.mark.slow
def test_the_same_command_again_continues_the_run_of_an_address(
    tmp_path: Path, web: Web, carrier: str
) -> None:
    first = assign(web, carrier, tmp_path)
    before = contents(tmp_path / "run")
    again = assign(web, carrier, tmp_path, "--download-timeout", "30")
    assert (first.code, again.code) == (3, 3)
    assert contents(tmp_path / "run") == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (answer(inventory(31)), "/fleet.csv has changed since the run began"),
        (answer(inventory(30)[:-1]), "/fleet.csv has changed since the run began"),
        (answer(status=403), "an inventory can't be compared with the input of the run"),
        (answer(inventory(30), length=10_000), "an inventory can't be compared with the input of the run"),
    ],
)
def test_the_same_command_again_is_refused_if_the_file_has_changed(
    tmp_path: Path, web: Web, carrier: str, now: bytes, reason: str
) -> None:
    first = assign(web, carrier, tmp_path)
    web.put("/fleet.csv", now)
    again = assign(web, carrier, tmp_path)
    assert (first.code, again.code) == (3, 2)
    assert reason in again.err
    assert "batchlic resume run" in again.err
    assert shown_secrets(tmp_path, first, again) == []


def test_a_file_that_is_cut_off_leaves_no_run(tmp_path: Path, web: Web, carrier: str) -> None:
    web.put("/fleet.csv", answer(inventory(30), length=10_000))
    ended = assign(web, carrier, tmp_path)
    assert ended.code == 2
    assert "cut off" in ended.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_addresses_are_read_from_a_job_file_beside_paths(tmp_path: Path, web: Web) -> None:
    (tmp_path / "more.csv").write_text(f"IMEI\n{imei(99)}\n")
    (tmp_path / "job.toml").write_text(
        f"""
        action = "assign"
        [inventory]
        files = ["more.csv", "{with_secrets(web.address + "/fleet.csv")}"]
        download_timeout = 30
        [license]
        account = "{ACCOUNT}"
        sku = "{FLEXIBLE}"
        """
    )
    ended = batchlic("plan", "job.toml", "--run-dir", "run", cwd=tmp_path)
    assert f"32 rows read from more.csv, {web.address}/fleet.csv" in ended.out.replace(f"{tmp_path}/", "")
    assert shown_secrets(tmp_path / "run", ended) == []


@pytest.mark.slow
def test_a_signal_ends_a_download_that_waits(tmp_path: Path, web: Web) -> None:
    web.put("/fleet.csv", b"")
    web.silent.add("/fleet.csv")
    process = begin_as_a_shell_does("plan", f"{web.address}/fleet.csv", *OPTIONS, settings={}, cwd=tmp_path)
    until(lambda: bool(web.requests))
    process.terminate()
    ended = end(process)
    assert ended.code == 6, ended
    assert not (tmp_path / "run").exists()
