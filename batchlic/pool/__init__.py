"""anyio workers, pace, retries and the isolation of bad devices."""
