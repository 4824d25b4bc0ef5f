"""Callbacks of the carrier: the listener that receives them, their store, and matching them to a run.

Import from the modules: each needs large libraries that the others don't.
"""
