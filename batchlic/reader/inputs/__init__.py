"""Inventories as bytes: which files and addresses are named, downloads, archives, compression, encodings."""
