"""How fast to send."""
