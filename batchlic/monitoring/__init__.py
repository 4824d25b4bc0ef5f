"""Observers of a run: progress, log, metrics, traces, notifications. They know a run only by its events."""
