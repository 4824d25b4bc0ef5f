"""A carrier to run against: same paths, hidden limits, strict books."""
