"""Inventories in a cloud store are read from a real S3-compatible server on loopback."""

import gzip
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from batchlic.errors import InventoryError
from batchlic.reader import ReadOptions
from tests.reader.builders import ACCOUNT, SKU, csv_of, iccid, imei, plan_files
from tests.reader.test_formats import FORMATS, ROWS

BUCKET = "fleet"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    _, port = server.get_host_and_port()
    put(port, "")
    yield port
    server.stop()


@pytest.fixture(autouse=True)
def store(port: int, monkeypatch: pytest.MonkeyPatch) -> int:
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    return port


def put(port: int, key: str, content: bytes = b"") -> str:
    connection = HTTPConnection("127.0.0.1", port)
    connection.request(
        "PUT",
        f"/{BUCKET}/{key}",
        content,
        {"Authorization": "AWS4-HMAC-SHA256 Credential=testing/x/us-east-1/s3/aws4_request"},
    )
    assert connection.getresponse().status == 200
    connection.close()
    return f"s3://{BUCKET}/{key}"


@pytest.mark.parametrize(
    "kind", ["comma", "semicolon", "gzip", "zstd", "parquet", "arrow", "ndjson", "json array", "no header"]
)
def test_an_object_in_a_store_is_an_inventory(tmp_path: Path, store: int, kind: str) -> None:
    name = put(store, "object", FORMATS[kind])
    planned = plan_files(tmp_path, name)
    assert planned.devices == ROWS
    assert planned.plan["source"].unique().to_list() == [name]


def test_files_and_objects_are_planned_together(tmp_path: Path, store: int) -> None:
    (tmp_path / "here.csv").write_bytes(csv_of([(imei(1), "")]))
    there = put(store, "there.csv", gzip.compress(csv_of([(imei(1), iccid(1)), (imei(2), "")])))
    planned = plan_files(tmp_path, str(tmp_path / "here.csv"), there)
    assert planned.summary.planned == 2
    assert planned.rejects.select("source", "row").rows() == [(there, 1)]


def test_a_workbook_in_a_store_must_be_downloaded_first(tmp_path: Path, store: int) -> None:
    with pytest.raises(InventoryError, match="download anything else first"):
        plan_files(tmp_path, put(store, "book.xlsx", FORMATS["workbook"]))


@pytest.mark.parametrize("pattern", ["*-1.csv", "fleet-[0-9].csv"])
def test_a_pattern_names_objects_as_polars_reads_it(tmp_path: Path, store: int, pattern: str) -> None:
    put(store, "fleet-1.csv", FORMATS["comma"])
    assert plan_files(tmp_path, f"s3://{BUCKET}/{pattern}").devices == ROWS


@pytest.mark.parametrize(
    "address",
    [
        f"s3://{BUCKET}/object?versionId=s3cr3t",
        f"s3://{BUCKET}/object?X-Amz-Signature=s3cr3t&x=1",
        f"s3://{BUCKET}/fleet-?.csv",
        f"s3://key:s3cr3t@{BUCKET}/object",
        "az://container/fleet.csv?sv=2025&sig=s3cr3t",
    ],
)
def test_an_object_with_a_query_or_a_password_is_refused(tmp_path: Path, store: int, address: str) -> None:
    put(store, "object", FORMATS["comma"])
    with pytest.raises(InventoryError, match="has no query, and no password") as caught:
        plan_files(tmp_path, address)
    assert "s3cr3t" not in str(caught.value)


def test_a_missing_object_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(
        InventoryError, match=f"s3://{BUCKET}/nowhere.csv: can't be read from the cloud store"
    ):
        plan_files(tmp_path, f"s3://{BUCKET}/nowhere.csv")


@pytest.mark.parametrize(
    "pattern", ["nothing-*.csv", "nothing/*", "nothing-[0-9].parquet", "nothing/**/*.csv"]
)
def test_a_pattern_that_matches_nothing_is_no_empty_inventory(tmp_path: Path, pattern: str) -> None:
    options = ReadOptions(account=ACCOUNT, sku=SKU, allow_empty=True)
    with pytest.raises(InventoryError, match="no object matches"):
        plan_files(tmp_path, f"s3://{BUCKET}/{pattern}", options=options)
