"""Notifications and heartbeat of a run: messages by apprise, and pings to a monitoring service."""
