"""Spreadsheets: XLSX, XLSB, XLS and ODS."""
