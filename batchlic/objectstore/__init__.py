"""Folders in object stores: local copies of them, which are kept in step by a manifest."""
