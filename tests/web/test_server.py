"""`batchlic serve` as a process: what it refuses at its start, TLS, and how it ends."""

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import trustme

from tests.endtoend.program import batchlic, begin, bound, end
from tests.runs.kept_runs import finished
from tests.web.builders import TOKEN, hostile_run


@contextmanager
def serving(home: Path, *options: str, **settings: str) -> Iterator[str]:
    """The URL of the pages about the folder `home`; the process ends with exit code 0, whatever is open."""
    process = begin("serve", home, "--port", "0", *options, settings=settings, cwd=home)
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.send_signal(15)
        assert end(process).code == 0


@pytest.mark.parametrize(
    ("settings", "options", "expected"),
    [
        ({}, ["--host", "0.0.0.0"], "BATCHLIC_SERVE_TOKEN"),  # noqa: S104
        ({}, ["--public-host", "runs.example"], "BATCHLIC_SERVE_TOKEN"),
        ({"BATCHLIC_SERVE_TOKEN": "short"}, [], "at least 16"),
        ({"BATCHLIC_SERVE_TOKEN": f"{TOKEN}\n"}, [], "line feed"),
        ({}, ["nowhere"], "nowhere: there is no such folder"),
        ({}, ["--tls-cert", "none.pem"], "none.pem"),
        ({}, ["--host", "192.0.2.1"], "BATCHLIC_SERVE_TOKEN"),
        ({"BATCHLIC_SERVE_TOKEN": TOKEN}, ["--host", "192.0.2.1"], "can't listen"),
    ],
)
def test_a_wrong_option_is_exit_2_before_anything_is_served(
    tmp_path: Path, settings: dict[str, str], options: list[str], expected: str
) -> None:
    (tmp_path / "runs").mkdir()
    ended = batchlic("serve", "--port", "0", *options, settings=settings, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert expected in ended.err
    assert TOKEN not in ended.err


def test_a_port_that_is_taken_is_exit_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = batchlic("serve", tmp_path, "--port", port, cwd=tmp_path)
    assert ended.code == 2
    assert port in ended.err


@pytest.mark.slow
def test_the_pages_are_served_over_tls_with_a_secure_cookie(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    finished(tmp_path / "run")
    tls = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    options = ("--tls-cert", str(certificate))
    with (
        serving(tmp_path, *options, BATCHLIC_SERVE_TOKEN=TOKEN) as url,
        httpx.Client(base_url=url, verify=tls, trust_env=False) as browser,
    ):
        assert url.startswith("https://")
        answer = browser.post("/login", data={"token": TOKEN})
        assert answer.headers["set-cookie"].startswith("__Host-")
        assert "nightly" in browser.get("/").text


@pytest.mark.slow
def test_a_stream_sends_the_figures_and_ends_with_the_server(tmp_path: Path) -> None:
    folder = hostile_run(tmp_path / "run")
    with folder.locked(), httpx.Client(trust_env=False) as browser, serving(tmp_path) as url:
        with browser.stream("GET", f"{url}runs/run-1/live") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.iter_lines()
            line = next(line for line in lines if line.startswith("data: "))
            assert json.loads(line.removeprefix("data: "))["text"]["accepted"] == "10"
        stream = browser.send(browser.build_request("GET", f"{url}runs/run-1/live"), stream=True)
    stream.close()


@pytest.mark.slow
def test_a_stream_says_when_the_run_is_over(tmp_path: Path) -> None:
    hostile_run(tmp_path / "run")
    with serving(tmp_path) as url, httpx.Client(trust_env=False) as browser:
        assert "event: changed" in browser.get(f"{url}runs/run-1/live").text


def test_a_folder_of_another_user_is_exit_2(tmp_path: Path) -> None:

    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    ended = bound("serve", closed, "--port", "0", cwd=tmp_path)
    assert ended.code == 2
    assert "can't be opened" in ended.err
