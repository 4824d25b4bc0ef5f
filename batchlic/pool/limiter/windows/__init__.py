"""Limits that let a quota in and then nothing until a window opens: fixed ones, and sliding ones."""
