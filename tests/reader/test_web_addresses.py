"""Inventories on web servers are read from real servers on loopback."""

import gzip
import hashlib
import io
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import trustme

import batchlic.reader.inputs
from batchlic.errors import InventoryError, UsageError
from batchlic.job import load_job
from batchlic.reader import ReadOptions
from batchlic.reader.inputs.addresses import address_of
from batchlic.reader.inputs.sources import expanded
from tests.reader.builders import ACCOUNT, SKU, Planned, csv_of, imei, plan_files
from tests.reader.test_formats import CSV, DEVICES, FORMATS, ROWS
from tests.reader.web import Request, Web, answer, redirect, serving

QUICK = ReadOptions(account=ACCOUNT, sku=SKU, download_timeout=0.2)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No proxy, and no credentials of the machine."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[Web]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with serving(context) as found:
        yield found


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


def refusal(folder: Path, *names: str, options: ReadOptions = QUICK) -> str:
    with pytest.raises(UsageError) as caught:
        plan_files(folder, *names, options=options)
    return str(caught.value)


def sources(planned: Planned) -> list[str]:
    return [source.name for source in planned.summary.sources]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_of_any_format_is_read_from_an_address(tmp_path: Path, web: Web, kind: str) -> None:
    address = web.put_file("/export", FORMATS[kind])
    planned = plan_files(tmp_path, address)
    assert planned.devices == DEVICES
    assert sources(planned) == [address]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("sent", ["half", "all but a byte", "nothing"])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, web: Web, kind: str, sent: str) -> None:
    whole = FORMATS[kind]
    part = {"half": whole[: len(whole) // 2], "all but a byte": whole[:-1], "nothing": b""}[sent]
    address = web.put("/export", answer(part, length=len(whole)))
    assert "cut off" in refusal(tmp_path, address)
    assert not (tmp_path / "plan.parquet").exists()


@pytest.mark.slow
def test_a_file_that_is_cut_off_in_a_chunk_is_refused(tmp_path: Path, web: Web) -> None:
    chunk = b"%x\r\n%b\r\n" % (len(CSV), CSV)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = web.put("/whole", head + chunk + b"0\r\n\r\n")
    assert plan_files(tmp_path, whole).devices == DEVICES
    for cut in (chunk, chunk[: len(chunk) // 2]):
        assert "cut off" in refusal(tmp_path, web.put("/cut", head + cut))


@pytest.mark.slow
def test_rows_that_came_before_the_connection_broke_are_not_planned(tmp_path: Path, web: Web) -> None:
    rows = csv_of((imei(n), "") for n in range(30_000))
    assert "cut off" in refusal(tmp_path, web.put("/export", answer(rows, length=len(rows) + 1)))
    assert not (tmp_path / "plan.parquet").exists()


def test_a_file_without_an_announced_size_is_read_with_a_note(tmp_path: Path, web: Web) -> None:
    planned = plan_files(tmp_path, web.put("/export", b"HTTP/1.0 200 OK\r\n\r\n" + CSV))
    assert planned.devices == DEVICES
    assert any("can't know whether the file is complete" in note for note in planned.summary.notes)


def test_a_file_without_tls_is_read_with_a_note(tmp_path: Path, web: Web) -> None:
    notes = plan_files(tmp_path, web.put_file("/export", CSV)).summary.notes
    assert notes == (f"{web.address}/export: read without TLS: anyone on the way can see and change it",)


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip"])
def test_a_body_that_the_server_compresses_is_read(tmp_path: Path, web: Web, encoding: str) -> None:
    two = gzip.compress(CSV[: len(CSV) // 2]) + gzip.compress(CSV[len(CSV) // 2 :])
    address = web.put("/export", answer(two, f"Content-Encoding: {encoding}"))
    assert plan_files(tmp_path, address).devices == DEVICES
    cut = web.put("/cut", answer(two[:-10], f"Content-Encoding: {encoding}"))
    assert "damaged, cut off or locked" in refusal(tmp_path, cut)


def test_a_body_in_an_encoding_without_a_mark_is_refused(tmp_path: Path, web: Web) -> None:
    assert "'br'" in refusal(tmp_path, web.put("/export", answer(b"odd", "Content-Encoding: br")))


# -- queries, logins, fragments -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "page=1",
        "X-Amz-Signature=s3cr3t&X-Amz-Credential=AKIA%2F2026%2Fus-east-1",
        "sv=2025-01-05&sig=s3cr3t%2Bab%3D&se=2026-01-01T00%3A00%3A00Z",
        "filter=site:north/a,b;c&empty=&token=s3cr3t~(x)*!'@[0]",
        "a=b?c=d",
    ],
)
def test_a_query_is_sent_as_given_and_never_shown(tmp_path: Path, web: Web, query: str) -> None:
    address = web.put_file("/export/fleet.csv", CSV)
    planned = plan_files(tmp_path, f"{address}?{query}#part-s3cr3t")
    assert web.requests[0].target == f"/export/fleet.csv?{query}"
    assert sources(planned) == [address]
    assert planned.plan["source"].unique().to_list() == [address]
    assert "s3cr3t" not in str(planned.summary)


@pytest.mark.parametrize(
    ("given", "sent"), [("/süd flotte.csv", "/s%C3%BCd%20flotte.csv"), ("/a%20b%2Fc", "/a%20b%2Fc")]
)
def test_only_impossible_characters_are_encoded(tmp_path: Path, web: Web, given: str, sent: str) -> None:
    web.put_file(sent, CSV)
    assert sources(plan_files(tmp_path, web.address + given)) == [web.address + given]
    assert web.requests[0].target == sent


@pytest.mark.parametrize(
    ("given", "sent"),
    [("fleet:s3cr3t", "fleet:s3cr3t"), ("a%40b:s3%2Fcr%3At", "a@b:s3/cr:t"), ("who:", "who:")],
)
def test_a_login_is_sent_and_never_shown(tmp_path: Path, web: Web, given: str, sent: str) -> None:
    web.put_file("/export", CSV)
    planned = plan_files(tmp_path, web.address.replace("//", f"//{given}@") + "/export")
    assert web.requests[0].login == sent
    assert sources(planned) == [f"{web.address}/export"]
    assert given not in str(planned.summary)


def test_a_login_comes_from_netrc(tmp_path: Path, web: Web) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login fleet password s3cr3t\n")
    (tmp_path / ".netrc").chmod(0o600)
    plan_files(tmp_path, web.put_file("/export", CSV))
    assert web.requests[0].login == "fleet:s3cr3t"


def test_addresses_that_are_shown_alike_get_numbers(tmp_path: Path, web: Web) -> None:
    def page(request: Request) -> bytes:
        return answer(csv_of([ROWS[int(request.target[-1])]]))

    address = web.put("/export", page)
    planned = plan_files(tmp_path, f"{address}?page=0", f"{address}?page=1", f"{address}?page=2")
    assert sources(planned) == [address, f"{address}#2", f"{address}#3"]
    assert planned.devices == DEVICES
    assert [file.name for file in planned.summary.downloaded] == sources(planned)
    assert (
        f"{address}#3: the address 3 of those that differ only in what is not shown" in planned.summary.notes
    )


@pytest.mark.parametrize("second", ["", "#b"])
def test_an_address_given_twice_is_refused(tmp_path: Path, web: Web, second: str) -> None:
    address = web.put_file("/export", CSV)
    message = refusal(tmp_path, f"{address}?s3cr3t#a", f"{address}?s3cr3t{second}")
    assert "given twice" in message
    assert "s3cr3t" not in message


@pytest.mark.parametrize(
    "address",
    [
        "https://",
        "https:///fleet.csv?s3cr3t",
        "https:/host/fleet.csv?s3cr3t",
        "HTTPS:host?s3cr3t",
        "https://user:s3cr3t/x@host/fleet.csv",
        "https://user:s3cr3t#x@host/fleet.csv",
        "https://user:s3cr3t@host:port/fleet.csv",
        "https://user:s3cr3t@[::1/fleet.csv",
        "https://user:s3cr3t@host:99999/fleet.csv",
        "sftp://user:s3cr3t@/fleet.csv",
        "sftp://user@host/fleet.csv?s3cr3t",
        "ftp://user:s3cr3t@host/fleet.csv",
        "postgresql://user:s3cr3t@host/fleet",
    ],
)
def test_a_wrong_address_is_refused_without_showing_it(tmp_path: Path, address: str) -> None:
    message = refusal(tmp_path, address)
    assert "address" in message
    assert "s3cr3t" not in message


def test_f_an_address_shows_no_secret_as_text() -> None:
    address = address_of("HTTPS://user:s3cr3t@Files.Example.com:8443/a/b.csv?sig=s3cr3t#s3cr3t")
    assert str(address) == "https://files.example.com:8443/a/b.csv"
    assert "s3cr3t" not in repr(address)
    assert "s3cr3t" not in f"{address}"


def test_a_password_with_a_slash_is_not_shown(tmp_path: Path, web: Web) -> None:
    port = web.address.rpartition(":")[2]
    message = refusal(tmp_path, f"http://127.0.0.1:{port}/s3cr3t@host/fleet.csv")
    assert message.startswith(f"http://127.0.0.1:{port}/…: ")


def test_the_address_of_a_local_file_is_refused_with_advice(tmp_path: Path) -> None:
    assert refusal(tmp_path, "file:///tmp/fleet.csv").endswith("give the path alone")


# -- redirects ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(tmp_path: Path, web: Web, status: int) -> None:
    web.put_file("/b/fleet.csv", CSV)
    web.put("/a/next", redirect("../b/fleet.csv?sig=s3%2Fcr3t", status))
    planned = plan_files(tmp_path, web.put("/a/export", redirect(f"{web.address}/a/next", status)))
    assert web.requests[-1].target == "/b/fleet.csv?sig=s3%2Fcr3t"
    assert sources(planned) == [f"{web.address}/a/export"]


def test_a_login_stays_with_its_server(tmp_path: Path, web: Web) -> None:
    web.put_file("/fleet.csv", CSV)
    with serving(host="127.0.0.2") as other:
        other.put("/here", redirect("/there"))
        other.put("/there", redirect(f"{web.address}/fleet.csv"))
        plan_files(tmp_path, other.address.replace("//", "//fleet:s3cr3t@") + "/here")
        assert [request.login for request in other.requests] == ["fleet:s3cr3t"] * 2
    assert [request.login for request in web.requests] == [None]


@pytest.mark.parametrize("target", ["ftp://host/fleet.csv", "file:///etc/passwd", "sftp://host/fleet.csv"])
def test_a_redirect_to_another_protocol_is_refused(tmp_path: Path, web: Web, target: str) -> None:
    message = refusal(tmp_path, web.put("/export", redirect(target)))
    assert f"redirects from http to {target.partition(':')[0]}" in message


@pytest.mark.usefixtures("trusted")
def test_a_redirect_away_from_tls_is_refused(tmp_path: Path, web: Web, secure: Web) -> None:
    plain = web.put_file("/export", CSV)
    assert "from https to http" in refusal(tmp_path, secure.put("/export", redirect(plain)))
    assert not web.requests


def test_redirects_in_a_circle_are_refused(tmp_path: Path, web: Web) -> None:
    assert "more than 10 redirects" in refusal(tmp_path, web.put("/export", redirect("/export")))
    assert len(web.requests) == 11


# -- errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (204, "answered 204 instead of the file"),
        (206, "answered 206 instead of the file"),
        (304, "answered 304 instead of the file"),
        (302, "answered 302 instead of the file"),
        (400, "answered 400 instead of the file"),
        (401, "check the login"),
        (403, "a signed address may have expired"),
        (404, "no such file on the server"),
        (410, "no such file on the server"),
        (429, "overloaded or down"),
        (500, "overloaded or down"),
        (503, "overloaded or down"),
    ],
)
def test_an_answer_without_the_file_says_what_to_do(
    tmp_path: Path, web: Web, status: int, advice: str
) -> None:
    address = web.put("/export", answer(b"" if status in {204, 304} else CSV, status=status))
    message = refusal(tmp_path, f"{address.replace('//', '//fleet:s3cr3t@')}?sig=s3cr3t")
    assert message.startswith(f"{address}: ")
    assert advice in message
    assert "s3cr3t" not in message


def test_a_server_that_does_not_answer_is_given_up(tmp_path: Path, web: Web) -> None:
    address = web.put("/export", b"")
    web.silent.add("/export")
    assert "sent nothing for 0.2 s" in refusal(tmp_path, address)


def test_a_server_that_stops_in_the_file_is_given_up(tmp_path: Path, web: Web) -> None:
    address = web.put("/export", answer(CSV, length=len(CSV) + 1))
    web.silent.add("/export")
    assert "sent nothing for 0.2 s" in refusal(tmp_path, address)


def test_a_server_that_closes_without_an_answer_is_an_error(tmp_path: Path, web: Web) -> None:
    assert "the connection broke" in refusal(tmp_path, web.put("/export", b""))


def test_an_answer_that_is_not_http_is_an_error(tmp_path: Path, web: Web) -> None:
    assert "the connection broke" in refusal(tmp_path, web.put("/export", b"SSH-2.0-OpenSSH_9.9\r\n\r\n"))


def test_a_port_without_a_server_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "the server can't be reached" in refusal(tmp_path, f"http://u:s3cr3t@127.0.0.1:{port}/export")


def test_an_unknown_host_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    message = refusal(tmp_path, "https://u:s3cr3t@nowhere.example/export?s3cr3t")
    assert message.startswith("https://nowhere.example/export: there is no such host")
    assert "s3cr3t" not in message


@pytest.mark.usefixtures("trusted")
def test_a_file_is_read_over_tls(tmp_path: Path, secure: Web) -> None:
    planned = plan_files(tmp_path, secure.put_file("/export", CSV))
    assert planned.devices == DEVICES
    assert planned.summary.notes == ()


def test_an_unknown_certificate_is_refused(tmp_path: Path, secure: Web) -> None:
    message = refusal(tmp_path, secure.put_file("/export", CSV))
    assert "can't be trusted (unable to get local issuer certificate)" in message
    assert not secure.requests


@pytest.mark.usefixtures("trusted")
def test_a_certificate_of_another_host_is_refused(
    tmp_path: Path, secure: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, *rest, **more: real("127.0.0.1", *rest, **more))
    address = secure.put_file("/export", CSV).replace("127.0.0.1", "fleet.example")
    assert "can't be trusted (Hostname mismatch" in refusal(tmp_path, address)


def test_a_server_without_tls_behind_an_https_address_is_an_error(tmp_path: Path) -> None:
    def refuse() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(answer(b"plain HTTP sent to an HTTPS port", status=400))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=refuse)
        thread.start()
        address = f"https://127.0.0.1:{server.getsockname()[1]}/export"
        message = refusal(tmp_path, address, options=ReadOptions(account=ACCOUNT, sku=SKU))
        thread.join()
    assert "TLS certificate or connection can't be trusted" in message


@pytest.mark.parametrize("missing", ["fsspec", "aiohttp"])
def test_without_the_extra_an_address_is_refused(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delitem(sys.modules, "batchlic.reader.inputs.http_files", raising=False)
    monkeypatch.delattr(batchlic.reader.inputs, "http_files", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, missing, None)
    message = refusal(tmp_path, web.put_file("/export", CSV) + "?s3cr3t")
    assert "pip install 'batchlic[remote]', or download the file first" in message
    assert "s3cr3t" not in message


def test_an_error_of_a_format_names_the_address(tmp_path: Path, web: Web) -> None:
    address = web.put_file("/login", b"<!DOCTYPE html><html><body>Sign in</body></html>")
    with pytest.raises(InventoryError, match=f"^{address}: HTML"):
        plan_files(tmp_path, f"{address}?s3cr3t")


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_size_and_hash_are_those_of_the_whole_file(tmp_path: Path, web: Web, kind: str) -> None:
    body = FORMATS[kind]
    (file,) = plan_files(tmp_path, web.put_file("/export", body)).summary.downloaded
    assert (file.size, file.sha256) == (len(body), hashlib.sha256(body).hexdigest())


def test_bytes_after_the_end_of_a_table_count_for_size_and_hash(tmp_path: Path, web: Web) -> None:
    stream = io.BytesIO()
    pl.DataFrame(ROWS, schema=["imei", "iccid"], orient="row").write_ipc_stream(stream)
    body = stream.getvalue() + bytes(4_000_000)
    (file,) = plan_files(tmp_path, web.put_file("/export", body)).summary.downloaded
    assert (file.size, file.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert "cut off" in refusal(tmp_path, web.put("/cut", answer(body, length=len(body) + 1)))


SIGNED = "https://us3r:s3cr3t@files.example.com/fleet.csv?sig=s3cr3t#s3cr3t"


@pytest.mark.parametrize(
    "files",
    [
        f'files = "{SIGNED}"',
        f'files = ["{SIGNED}", 5]',
        f'files = ["{SIGNED}',
        f'file = ["{SIGNED}"]',
        f'files = ["{SIGNED}", "{SIGNED}"]',
        f'files = ["{SIGNED}"]\nmin_rows = "{SIGNED}"',
        f'files = ["{SIGNED}"]\ncolumns = "{SIGNED}"',
        f'files = ["{SIGNED.replace("https", "ftp")}"]',
        f'files = ["{SIGNED.replace("https", "htps")}"]',
        f'files = ["{SIGNED.replace("example.com", "example.com:99999")}"]',
        f'files = ["{SIGNED.replace("https", "s3")}"]',
    ],
)
def test_f_no_error_of_a_job_file_shows_a_secret_of_an_address(tmp_path: Path, files: str) -> None:
    job = tmp_path / "job.toml"
    license_table = f'[license]\naccount = "{ACCOUNT}"\nsku = "{SKU}"\n'
    job.write_text(f'action = "assign"\n{license_table}[inventory]\n{files}\n')
    with pytest.raises(UsageError) as caught:
        expanded(load_job(job, {}).inventory.files)
    assert "s3cr3t" not in str(caught.value)
