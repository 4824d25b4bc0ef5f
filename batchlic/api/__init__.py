"""The public Python API. `batchlic/__init__.py` is its table of contents."""
