"""The URL of a listener, and the warnings about it."""

import pytest

from batchlic.callbacks.registration import registration_url, url_warnings
from batchlic.errors import UsageError
from tests.callbacks.builders import ACCOUNT

URL = "https://erp.example/callbacks/CarrierService"


@pytest.mark.parametrize("given", [URL, f"{URL}/", f"{URL}/{ACCOUNT}"])
def test_the_registered_url_contains_the_account_once(given: str) -> None:
    assert registration_url(given, ACCOUNT) == f"{URL}/{ACCOUNT}"


@pytest.mark.parametrize(
    "given",
    ["erp.example", "ftp://erp.example/x", "https://u:p@erp.example/x", f"{URL}?a=b", ""],
)
def test_a_malformed_url_is_refused_without_showing_credentials(given: str) -> None:
    with pytest.raises(UsageError) as refused:
        registration_url(given, ACCOUNT)
    assert "u:p" not in str(refused.value)


@pytest.mark.parametrize("port", [80, 443, 9001, 9006, 50551, 50559, 28200, 28220])
def test_the_ports_that_the_carrier_calls_need_no_warning(port: int) -> None:
    assert list(url_warnings(f"https://erp.example:{port}/x")) == []


@pytest.mark.parametrize("port", [8443, 9000, 9007, 50550, 50560, 28221])
def test_other_ports_give_a_warning(port: int) -> None:
    [warning] = url_warnings(f"https://erp.example:{port}/x")
    assert str(port) in warning


def test_a_url_without_https_gives_a_warning() -> None:
    [warning] = url_warnings("http://erp.example/x")
    assert "https" in warning
