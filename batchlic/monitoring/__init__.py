"""Observers of a run: progress, log. They know a run only by its events."""
