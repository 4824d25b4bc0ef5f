"""Bytes of any format as blocks of text cells."""
