"""Tells people how a run ended: messages by apprise, and the pings of a dead man's switch."""
