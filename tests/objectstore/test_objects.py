"""Objects are read and written on a real server, and errors say what to do, without secrets."""

import sys

import pytest
from obstore.exceptions import GenericError

from batchlic.errors import BatchlicError, NoAccess, StoppedEarly, UsageError
from batchlic.objectstore import objects
from batchlic.objectstore.addresses import FolderAddress
from batchlic.objectstore.objects import Conflict, Missing, StoredObjects

SECRET = "s3cr3t-4711"


@pytest.fixture
def stored(s3: str) -> StoredObjects:
    return StoredObjects(s3)


def test_an_object_is_read_as_it_was_written(stored: StoredObjects) -> None:
    stored.write("files/a b/ä", b"content")
    assert stored.read("files/a b/ä")[0] == b"content"
    assert b"".join(stored.chunks("files/a b/ä")) == b"content"


def test_an_object_of_several_megabytes_is_written_in_pieces(stored: StoredObjects) -> None:
    stored.write("large", iter([b"x" * 1_000_000] * 7))
    assert b"".join(stored.chunks("large")) == b"x" * 7_000_000


def test_a_missing_object_is_told_from_an_error(stored: StoredObjects) -> None:
    with pytest.raises(Missing):
        stored.read("nothing")
    with pytest.raises(Missing):
        next(iter(stored.chunks("nothing")))


def test_only_one_of_two_can_create_an_object(stored: StoredObjects) -> None:
    stored.write_if("manifest.json", b"first", None)
    with pytest.raises(Conflict):
        stored.write_if("manifest.json", b"second", None)
    assert stored.read("manifest.json")[0] == b"first"


def test_only_one_of_two_can_replace_a_version(stored: StoredObjects) -> None:
    version = stored.write_if("manifest.json", b"first", None)
    newer = stored.write_if("manifest.json", b"second", version)
    with pytest.raises(Conflict):
        stored.write_if("manifest.json", b"third", version)
    assert stored.read("manifest.json") == (b"second", newer)


def test_a_version_that_was_deleted_can_not_be_replaced(stored: StoredObjects) -> None:
    version = stored.write_if("manifest.json", b"first", None)
    stored.delete(["manifest.json", "never there"])
    with pytest.raises(Conflict):
        stored.write_if("manifest.json", b"second", version)


def test_keys_are_those_below_the_address(stored: StoredObjects, s3: str) -> None:
    for key in ("a/1", "a/b/2", "c/3"):
        stored.write(key, b"")
    assert stored.list_keys() == ["a/1", "a/b/2", "c/3"]
    assert stored.list_keys("a") == ["a/1", "a/b/2"]
    assert StoredObjects(f"{s3}/a").list_keys() == ["1", "b/2"]


def test_folders_with_unusual_names_are_told_apart(s3: str) -> None:
    names = ["run", "run#1", "run#2", "a b", "a%20b", "100%", "ä+=&'[1]*~"]
    for name in names:
        StoredObjects(f"{s3}/{name}").write("manifest.json", name.encode())
    assert {name: StoredObjects(f"{s3}/{name}").read("manifest.json")[0].decode() for name in names} == {
        name: name for name in names
    }
    assert sorted(StoredObjects(s3).list_keys()) == sorted(f"{name}/manifest.json" for name in names)


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize("operation", ["read", "write_if", "list_keys"])
def test_a_missing_bucket_is_an_error_that_names_it(operation: str) -> None:
    stored = StoredObjects("s3://nowhere/run")
    arguments = {"read": ("x",), "write_if": ("x", b"", None), "list_keys": ()}[operation]
    with pytest.raises(UsageError, match="s3://nowhere/run: there is no such bucket"):
        getattr(stored, operation)(*arguments)


def test_a_server_that_does_not_answer_can_be_tried_again(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "RETRY_S", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StoppedEarly, match="does not answer: check the network"):
        StoredObjects(s3).read("x")


@pytest.mark.parametrize(
    ("answer", "kind", "advice"),
    [
        ("403 Forbidden: <Code>AccessDenied</Code>", NoAccess, "their permissions"),
        ("403 Forbidden: <Code>InvalidAccessKeyId</Code>", UsageError, "does not know the access key"),
        ("403 Forbidden: <Code>SignatureDoesNotMatch</Code>", UsageError, "AWS_SECRET_ACCESS_KEY"),
        ("400 Bad Request: <Code>ExpiredToken</Code>", UsageError, "renew the credentials"),
        ("301 Moved: <Code>PermanentRedirect</Code>", UsageError, "AWS_REGION"),
        ("503 Service Unavailable: ", StoppedEarly, r"\(HTTP 503\)"),
        ("PUT http://169.254.169.254/latest", UsageError, "AWS_ACCESS_KEY_ID"),
        ("500 Internal Server Error: s3://fleet/metadata/run", StoppedEarly, "run the command again"),
    ],
)
def test_an_answer_is_explained_without_its_text(answer: str, kind: type[BatchlicError], advice: str) -> None:
    with pytest.raises(kind, match=advice) as caught, objects.explain_errors("s3://b/run"):
        raise GenericError(f"Server returned non-2xx status code: {answer} {SECRET}")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_http_without_tls_is_refused_beyond_loopback(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage.example.com")
    with pytest.raises(UsageError, match="AWS_ALLOW_HTTP=true"):
        StoredObjects(s3)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    StoredObjects(s3)


def test_without_the_library_the_error_names_the_extra(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UsageError, match=r"pip install 'batchlic\[object-storage\]'"):
        StoredObjects(s3)


def test_azure_without_an_account_says_which_variable_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(UsageError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        StoredObjects("az://container/run")


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("s3://bucket/prefix/run", "s3://bucket/prefix/run"),
        ("s3://bucket/prefix/run/", "s3://bucket/prefix/run"),
        ("s3a://bucket/run", "s3://bucket/run"),
        ("gcs://bucket/run", "gs://bucket/run"),
        (
            "abfss://container@account.dfs.core.windows.net/run",
            "abfss://container@account.dfs.core.windows.net/run",
        ),
    ],
)
def test_an_address_has_one_form(given: str, url: str) -> None:
    address = FolderAddress.parse(given)
    assert (str(address), address.name) == (url, "run")


@pytest.mark.parametrize("given", ["s3://", "s3://bucket", "s3://bucket/", "s3://b//run", "s3://b/../run"])
def test_what_is_no_folder_in_a_bucket_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="not the address of a folder"):
        FolderAddress.parse(given)


@pytest.mark.parametrize("given", [f"s3://key:{SECRET}@bucket/run", f"az://c/run?sig={SECRET}"])
def test_an_address_with_secrets_is_refused_without_showing_them(given: str) -> None:
    with pytest.raises(UsageError, match="no query, and no password") as caught:
        FolderAddress.parse(given)
    assert SECRET not in str(caught.value)
