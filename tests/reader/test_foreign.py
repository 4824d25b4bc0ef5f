"""Files of formats that batchlic does not read are named, with what to do; inventories never are."""

from pathlib import Path

import pytest

from batchlic.errors import InventoryError
from tests.reader.builders import csv_of, iccid, imei, plan_bytes

ONE, TWO = imei(1), imei(2)
MYSQL = """\
-- MySQL dump 10.13  Distrib 8.0
--
-- Host: db

/*!40101 SET NAMES utf8 */;

DROP TABLE IF EXISTS `sims`;
INSERT INTO `sims` VALUES (1,'a','b');
"""
POSTGRESQL = f"""\
--
-- PostgreSQL database dump
--

SET statement_timeout = 0;
COPY public.sims (imei, iccid) FROM stdin;
{ONE}\t{iccid(1)}
\\.
"""
INSERT = "insert into devices (imei, iccid) values\n" + f"('{ONE}', '{iccid(1)}');\n"
MHTML = f"""\
From: <Saved by Excel>
Subject: fleet
MIME-Version: 1.0
Content-Type: multipart/related;
\tboundary="x"

--x
<table><tr><td>{ONE}</td></tr></table>
"""
MAIL = """\
Received: from a (b)
 by c
Date: Mon
Content-Type: text/csv
Content-Transfer-Encoding: base64

SU1FSSxJQ0NJRAo=
"""
TEXTS = {
    "SYLK": (f'ID;PWXL;N;E\nC;Y1;X1;K"IMEI"\nC;Y2;X1;K"{ONE}"\nE\n', "a SYLK file"),
    "DIF": (f'TABLE\n0,1\n"EXCEL"\nVECTORS\n0,2\n""\nDATA\n0,0\n""\n-1,0\nBOT\n1,0\n"{ONE}"\n', "a DIF file"),
    "MySQL dump": (MYSQL, "an SQL script"),
    "PostgreSQL dump": (POSTGRESQL, "an SQL script"),
    "SQLite dump": (
        f"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nINSERT INTO sims VALUES('{ONE}');\n",
        "an SQL script",
    ),
    "INSERT": (INSERT, "an SQL script"),
    "MHTML": (MHTML, "an e-mail or a web archive"),
    "e-mail": (MAIL, "an e-mail"),
    "web answer": (f"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n{ONE}\r\n", "the answer of a web server"),
    "vCard": (f"BEGIN:VCARD\nVERSION:3.0\nFN:a\nTEL:{ONE}\nEND:VCARD\n", "a vCard file"),
    "LDIF": (f"dn: cn=a,dc=b\nimei2: {ONE}\n", "an LDIF file"),
    "YAML list": (f'- imei: "{ONE}"\n  site: a\n- imei: "{TWO}"\n', "a YAML file"),
    "YAML document": (f"---\ndevices:\n  - imei: {ONE}\n", "a YAML file"),
    "YAML object": (f"devices:\n  - imei: {ONE}\n    iccid: {iccid(1)}\n", "a YAML file"),
    "YAML keys": (f"site: a\nserial: 7\nimei: {ONE}\n", "a YAML file"),
    "JSONP": (f'callback([{{"imei": "{ONE}"}}]);', "JSONP"),
    "JSONP with comment": (f'/**/ jQuery11.cb({{"devices": [{{"imei": "{ONE}"}}]}})', "JSONP"),
    "JavaScript": (f'var devices = [{{"imei": "{ONE}"}}];\n', "a JavaScript file"),
    "module": (f'export default [\n  {{ imei: "{ONE}" }},\n];\n', "a JavaScript file"),
    "guarded JSON": (f')]}}\',\n[{{"imei": "{ONE}"}}]', "JSON behind a line that guards it"),
    "Python": (f"[{{'imei': '{ONE}'}}, {{'imei': '{TWO}'}}]", "a Python list"),
    "Python lines": (f"{{'imei': '{ONE}'}}\n{{'imei': '{TWO}'}}\n", "a Python list"),
    "TOML": (f'[[devices]]\nimei = "{ONE}"\n', "a TOML or INI file"),
    "INI": (f"[device1]\nimei = {ONE}\n", "a TOML or INI file"),
    "PGP": ("-----BEGIN PGP MESSAGE-----\n\nhQEMA\n-----END PGP MESSAGE-----\n", "decrypt it first"),
    "Git LFS": ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
    "SpreadsheetML": ('<?xml version="1.0"?>\n<Workbook><Styles/><Table ss:x="1">', "XML, whatever"),
    "HTML": (f"<table><tr><td>{ONE}</td></tr></table>", "HTML"),
}


@pytest.mark.parametrize(("text", "complaint"), TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("before", ["", "\n \n", "\ufeff"])
def test_a_text_of_another_format_is_named(tmp_path: Path, text: str, complaint: str, before: str) -> None:
    if complaint in {"decrypt it first", "git lfs pull"} and before:
        return
    with pytest.raises(InventoryError, match=complaint):
        plan_bytes(tmp_path, (before + text).encode(), "fleet.csv")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"RDX3\nX\n\0\0\0\3", "R"),
        (b"\x93NUMPY\1\0", "NumPy"),
        (b"\0\1\0\0Standard Jet DB\0", "Access"),
        (b"Salted__\0\1\2", "encrypted"),
        (b"age-encryption.org/v1\n-> X25519 a\n", "encrypted"),
        (b"\x09\4\6\0\0\0\x10\0", "Excel 4"),
        (b"ORC\x0a\x0b\3\0\0", "ORC"),
        (b"LZIP\1\x0c", "lzip"),
        (b"MSCF\0\0\0\0", "cabinet"),
        (b"bplist00\xd1\1", "property list"),
    ],
)
def test_a_binary_file_of_another_format_is_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    with pytest.raises(InventoryError, match=complaint):
        plan_bytes(tmp_path, content + bytes(40), "fleet.csv")


@pytest.mark.parametrize(
    ("header", "separator"),
    [
        ("ID,PO,IMEI", ";"),
        ("ORC no,x,IMEI", ","),
        ("Set name,Use,IMEI", ";"),
        ("Create table,x,IMEI", ","),
        ("Date:,Content-Type:,IMEI", ","),
        ("site:,a,IMEI", "\t"),
        ("GIF8,LZIP,IMEI", ","),
        ("fn([x]),[a],IMEI", ";"),
        ("begin 644 x,y,IMEI", "|"),
    ],
)
@pytest.mark.parametrize(
    "title", ["", "- note: all devices\n", "--- Fleet\n", "# dump of SQL\n", "USE THIS;\n"]
)
def test_a_header_like_the_start_of_another_format_is_a_header(
    tmp_path: Path, header: str, separator: str, title: str
) -> None:
    rows = csv_of([("a", "b", ONE), ("a", "b", TWO)], header, separator)
    assert plan_bytes(tmp_path, title.encode() + rows).summary.planned == 2
