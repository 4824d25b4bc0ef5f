"""Finds the requests and devices that messages name, by requestId, IMEI and ICCID.

- A requestId is the same in upper and lower case, in braces or quotes, and a GUID also without its dashes.
- An IMEI is the same without its check digit, with a software version in its place (IMEISV), and with or
  without a leading zero.
- A message is about each device that one of its identifiers names. One exception: it names the IMEI of one
  device of the request without that device's ICCID, and the ICCID of a device with another IMEI. The ICCID
  may be the new SIM of the first device, so the message is only about that one.
"""

import polars as pl

from batchlic.reader.validation.rules import imei_of_imeisv

_KINDS = ("imei", "iccid")
_IDENTIFIERS = (*_KINDS, "further_ids")
_IMEI_DIGITS = 15

_OF_MESSAGE = {"request_id": "request_id_of_message", "account_name": "account_of_message"}
"""Columns that both messages and requests have."""

_PAIR = ["message", "plan_row", "step"]


def request_key(request_id: pl.Expr) -> pl.Expr:
    """A requestId in the form in which it is compared."""
    text = request_id.str.strip_chars(" \t{}()\"'").str.to_lowercase()
    digits = text.str.replace_all("-", "", literal=True)
    return pl.when(digits.str.contains("^[0-9a-f]{32}$")).then(digits).otherwise(text)


def matches(requests: pl.LazyFrame, messages: pl.LazyFrame, keys: list[str]) -> pl.LazyFrame:
    """Each message with each request for a device that it names, joined on `keys` and an identifier.

    Columns are those of `requests` without the identifiers, and those of `messages`, some of them renamed to
    `…_of_message`. A device that a message names twice can have two rows.
    """
    by_imei, by_iccid = (
        _named(messages, kind).join(requests.drop_nulls(kind).drop(_unused(keys)), on=[*keys, kind])
        for kind in _KINDS
    )
    only_by_iccid = by_iccid.join(by_imei.select(_PAIR), on=_PAIR, how="anti", nulls_equal=True)
    has_other_iccid = by_imei.join(by_iccid.select(_PAIR), on=_PAIR, how="anti", nulls_equal=True)
    is_certain = pl.col("imei").is_null()
    certain = only_by_iccid.filter(is_certain)
    uncertain = only_by_iccid.filter(~is_certain).join(
        has_other_iccid.select("message"), on="message", how="anti"
    )
    found = [part.drop(_KINDS) for part in (by_imei, certain, uncertain)]
    columns = found[0].collect_schema().names()
    return pl.concat(part.select(columns) for part in found)


def naming_several(requests: pl.LazyFrame, messages: pl.LazyFrame) -> pl.LazyFrame:
    """The messages that name several devices, by several identifiers of a kind or by devices without IMEI."""
    by_iccid_only = requests.filter(pl.col("imei").is_null()).select("iccid").drop_nulls()
    has_several = pl.col("further_ids").str.contains("IMEI:|ICCID:")
    without_imei = messages.filter(~has_several).join(by_iccid_only, on="iccid", how="semi")
    return pl.concat([messages.filter(has_several), without_imei])


def of_whole_requests(requests: pl.LazyFrame, messages: pl.LazyFrame) -> pl.LazyFrame:
    """Each message with the requests for all devices of its request (columns: as `matches`)."""
    return messages.rename(_OF_MESSAGE).drop(_IDENTIFIERS).join(requests.drop(_KINDS), on="request_key")


def _unused(keys: list[str]) -> list[str]:
    """The columns of requests that are not joined on, but that messages have too."""
    return [name for name in ("request_key",) if name not in keys]


def _named(messages: pl.LazyFrame, kind: str) -> pl.LazyFrame:
    """The messages, one row per identifier of a kind, in a column with the name of the kind."""
    renamed = messages.rename(_OF_MESSAGE)
    others = [name for name in _IDENTIFIERS if name != kind]
    first = renamed.filter(pl.col(kind) != "").drop(others)
    prefix = f"{kind.upper()}:"
    further = (
        renamed.filter(pl.col("further_ids").str.contains(prefix, literal=True))
        .with_columns(pl.col("further_ids").str.split(" ").alias(kind))
        .drop(others)
        .explode(kind)
        .filter(pl.col(kind).str.starts_with(prefix))
        .with_columns(pl.col(kind).str.strip_prefix(prefix))
    )
    named = pl.concat([first, further])
    return _with_forms(named) if kind == "imei" else named


def _with_forms(named: pl.LazyFrame) -> pl.LazyFrame:
    """The messages. An IMEI without 15 digits has one row for each IMEI that it may stand for."""
    imei = pl.col("imei")
    length = imei.str.len_bytes()
    forms = [
        imei,
        pl.when(length.is_in([_IMEI_DIGITS - 1, _IMEI_DIGITS + 1])).then(imei_of_imeisv(imei)),
        pl.when(length == _IMEI_DIGITS - 1).then("0" + imei),
        pl.when((length == _IMEI_DIGITS + 1) & imei.str.starts_with("0")).then(imei.str.slice(1)),
    ]
    odd = named.filter(length != _IMEI_DIGITS).with_columns(pl.concat_list(forms).alias("imei"))
    return pl.concat([named.filter(length == _IMEI_DIGITS), odd.explode("imei").drop_nulls("imei")])
