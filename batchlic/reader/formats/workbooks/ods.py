"""Finds the merged cells, hidden rows and size of each table of an ODS file, which calamine does not tell."""

import re
from collections.abc import Iterable
from html import unescape

from batchlic.reader.formats.workbooks.tables import MAX_ROWS, Table

_TAG = re.compile(
    rb"<(/?)table:(table|table-row|table-cell|covered-table-cell)(?![\w:-])"
    rb"""((?:[^<>"']|"[^"]*"|'[^']*')*?)(/?)>"""
)
_NAME = re.compile(rb"""\stable:name\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_NUMBER = re.compile(rb"""\stable:number-(columns|rows)-(repeated|spanned)\s*=\s*["'](\d+)["']""")
_HAS_VALUE = re.compile(rb"\s(office:([a-z]+-)?value|office:value-type|table:formula)\s*=")

_HIDDEN = re.compile(rb"""\stable:visibility\s*=\s*["'](?:filter|collapse)["']""")
_SPANS = re.compile(rb"""-spanned\s*=\s*["'](?!1["'])""")
_GAPS = re.compile(
    rb"""-columns-repeated\s*=\s*["']\d{2,}["'][^<>]*(?:(?<!/)>|/>(?!\s*</table:table-row>))"""
    rb"""|-rows-repeated\s*=\s*["']\d{3,}["']"""
    rb"[^<>]*>(?!\s*<table:table-cell[^<>]*/>\s*</table:table-row>\s*</table:table>)"
)


def matters(piece: bytes) -> bool:
    """Whether a piece of XML has merged cells, hidden rows, or gaps between cells."""
    has_spans = b"-spanned" in piece and _SPANS.search(piece) is not None
    return has_spans or b":visibility" in piece or (b"-repeated" in piece and _GAPS.search(piece) is not None)


def _hidden_rows(attributes: bytes, row: int, count: int) -> range:
    """Those of some equal rows, from `row` on, that are hidden: all or none."""
    return range(row, min(row + count, MAX_ROWS) if _HIDDEN.search(attributes) else row)


def tables(pieces: Iterable[bytes]) -> dict[str, Table]:
    """The tables by name. No piece ends within a tag."""
    found: dict[str, Table] = {}
    table = Table()
    row = column = 0
    row_count = 1
    for tag in (tag for piece in pieces for tag in _TAG.finditer(piece)):
        closing, kind, attributes, is_closed = tag.groups()
        numbers = {(which, how): int(number) for which, how, number in _NUMBER.findall(attributes)}
        if kind == b"table":
            if not closing and (name := _NAME.search(attributes)):
                table = found[unescape((name[1] or name[2] or b"").decode("utf-8", "replace"))] = Table()
                row = 0
        elif kind == b"table-row":
            if not closing:
                column, row_count = 0, numbers.get((b"rows", b"repeated"), 1)
                table.hidden.update(_hidden_rows(attributes, row, row_count))
            if closing or is_closed:
                row += row_count
        elif not closing:
            count = numbers.get((b"columns", b"repeated"), 1)
            if not is_closed or _HAS_VALUE.search(attributes):
                table.extent.add(row + row_count, column + count)
            last = (
                row + numbers.get((b"rows", b"spanned"), 1) - 1,
                column + numbers.get((b"columns", b"spanned"), 1) - 1,
            )
            if last != (row, column):
                table.merged.append(((row, column), last))
            column += count
    return found
