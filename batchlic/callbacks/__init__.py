"""What really became of each device: the carrier's callbacks, taken in, kept and matched to a run."""
