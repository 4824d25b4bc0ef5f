"""Names files of formats that batchlic does not read, and says what to do with them."""

import re

_CSV = "export its rows as CSV"
_OPEN = "open it in a spreadsheet program and save it as XLSX or CSV"
_STARTS = {
    b"%PDF": "a PDF: export the list as CSV or XLSX",
    b"SQLite format 3\0": "a SQLite database: name its file itself, and say with --query which rows to read",
    b"PARE": "a parquet file with encrypted metadata: save it without encryption",
    b"Obj\x01": "an Avro file: export it as parquet or CSV",
    b"ORC": "an ORC file: export it as parquet or CSV",
    b"\x80\x04\x95": "a Python pickle, which batchlic never loads: save it as parquet or CSV",
    b"\x80\x05\x95": "a Python pickle, which batchlic never loads: save it as parquet or CSV",
    b"\x93NUMPY": "a NumPy array: save it as CSV",
    b"\x89HDF": "an HDF5 file: save it as parquet or CSV",
    b"FEA1": "a Feather file of version 1: save it again as Arrow IPC or parquet",
    b"RDX2\n": "a data file of R: save it as CSV",
    b"RDX3\n": "a data file of R: save it as CSV",
    b"X\n\0\0\0": "a data file of R: save it as CSV",
    b"<stata_dta>": "a file of Stata: export it as CSV",
    b"$FL2": "a file of SPSS: export it as CSV",
    b"\0\1\0\0Standard ": "an Access database: export its table as CSV or XLSX",
    b"\x09\0\4\0": "a workbook of Excel 4 or older: save it as XLSX",
    b"\x09\2\6\0": "a workbook of Excel 4 or older: save it as XLSX",
    b"\x09\4\6\0": "a workbook of Excel 4 or older: save it as XLSX",
    b"\0\0\2\0": "a Lotus 1-2-3 worksheet: save it as XLSX or CSV",
    b"\0\0\x1a\0": "a Lotus 1-2-3 worksheet: save it as XLSX or CSV",
    b"bplist00": "a property list: export the list as CSV",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"MSCF": "a cabinet archive: unpack it first",
    b"\x04\x22\x4d\x18": "an LZ4 file: decompress it first",
    b"\xff\x06\0\0sNaPpY": "a Snappy file: decompress it first",
    b"\x1f\x9d": "a file of compress (.Z): decompress it first",
    b"LZIP": "an lzip file: decompress it first",
    b"\x5d\0\0": "an LZMA file: decompress it first",
    b"{\\rtf": "a rich text document: save its table as CSV or XLSX",
    b"\x89PNG": "a picture: export the list as CSV or XLSX",
    b"\xff\xd8\xff": "a picture: export the list as CSV or XLSX",
    b"GIF8": "a picture: export the list as CSV or XLSX",
    b"age-encryption.org/": "an encrypted file (age): decrypt it first",
    b"Salted__": "an encrypted file (OpenSSL): decrypt it first",
    b"-----BEGIN PGP MESSAGE": "an encrypted file (PGP): decrypt it first",
    b"-----BEGIN PKCS7": "an encrypted file (PKCS #7): decrypt it first",
    b"-----BEGIN ": "a key, certificate or signature: name the inventory instead",
    b"version https://git-lfs.github.com/": "a pointer of Git LFS to the file: run `git lfs pull` first",
}
"""First bytes of files, and what to do."""
_SHORT = 4
"""Letters that a header may begin with: only a binary file is told by so few."""

_COMMENTS = r"(?:(?:--|/\*|#)[^\n]*\n\s*)*"
_STATEMENT = r"(?:PRAGMA|SET|USE|BEGIN|START|LOCK|DROP|CREATE|ALTER|INSERT)\b[^\n,;|\t]*"
_TEXTS = {
    r"ID;P": f"a SYLK file: {_OPEN}",
    r"TABLE\s+0,1\s": f"a DIF file: {_OPEN}",
    rf"{_COMMENTS}(?:{_STATEMENT}(?:;\s*\n|\s(?:TABLE|INTO|DATABASE|SCHEMA)\s)|COPY\s[^\n]*\sFROM\s)": (
        "an SQL script: load it into a database, and export the table as CSV"
    ),
    r"(?:[A-Z][\w-]*:[^\n]*\n(?:[ \t][^\n]*\n)*)*(?:MIME-Version|Content-Type|Message-ID):": (
        "an e-mail or a web archive (MHTML): save its attachment, or its table as CSV or XLSX"
    ),
    r"HTTP/\d": "the answer of a web server with its headers: save the body alone",
    r"BEGIN:VCARD": f"a vCard file: {_CSV}",
    r"BEGIN:VCALENDAR": f"a calendar file: {_CSV}",
    r"(?:version:\s*1\s+)?dn:{1,2}\s*\S": f"an LDIF file: {_CSV}",
    r"%YAML|---\s*\n|(?:#[^\n]*\n\s*)*(?:-\s+[\w\"'-]+:|[\w\"'-]+:(?:[ \t]*\n|[ \t][^\n]*\n\s*[\w\"'-]+:))": (
        "a YAML file: write it as JSON or CSV"
    ),
    r"(?:/\*.*?\*/\s*)?[A-Za-z_$][\w$.]*\(\s*[\[{]": (
        "JSON in a function call (JSONP): remove the name and the parentheses around the JSON"
    ),
    r"(?:var|let|const|export\s+default|module\.exports|window\.\w+)\b[^\n]*?[=\s]\s*[\[{]": (
        "a JavaScript file: save the list in it as JSON"
    ),
    r"\)\]\}',?\s*\n|(?:while|for)\s*\(": "JSON behind a line that guards it: remove this line",
    r"\[\s*\{\s*'|\{\s*'": "a Python list or dict: write it as JSON (json.dumps)",
    r"\[\[?[A-Za-z_][\w. -]*\]\]?\s*\n": "a TOML or INI file: write it as JSON or CSV",
    r"\\documentclass|\\begin\{": f"a LaTeX file: {_CSV}",
    r"#!": "a script: name the inventory that it writes",
    r"begin \d{3} \S+\n": "a uuencoded file: decode it first",
}
"""Patterns of how texts start, after white space, and what to do."""
_PATTERNS = [(re.compile(pattern, re.IGNORECASE | re.DOTALL), advice) for pattern, advice in _TEXTS.items()]
_LOOKED_AT = 4096

_HTML = (b"<html", b"<table", b"<div", b"<body", b"<head", b"<meta", b"<!doctype html", b"<style")


def advice_for_bytes(head: bytes) -> str | None:
    """What a file is that starts like this, and what to do; None if it may be an inventory."""
    is_binary = any(byte < 9 for byte in head[:_LOOKED_AT])
    for start, advice in _STARTS.items():
        if head.startswith(start) and (is_binary or len(start) > _SHORT or not start.isalnum()):
            return advice
    return None


def advice_for_markup(start: bytes) -> str | None:
    """What a text is that starts like this, without white space, if it is HTML or XML."""
    if not start.startswith(b"<"):
        return None
    text = start[:2000].lower()
    is_html = b"<html" in text or (not text.startswith(b"<?xml") and any(mark in text for mark in _HTML))
    kind = "HTML" if is_html else "XML"
    return f"{kind}, whatever the file is called: {_OPEN}"


def advice_for_text(start: bytes) -> str | None:
    """What a text is that starts like this, if it was not understood, and what to do; None if unknown."""
    text = start[:_LOOKED_AT].decode("utf-8", "replace").replace("\r\n", "\n")
    return next((advice for pattern, advice in _PATTERNS if pattern.match(text)), None)
