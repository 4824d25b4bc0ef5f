"""The durable state of a run: what was intended, sent and answered."""
