"""Listening sockets on loopback addresses, and their base URL."""

import ipaddress
import socket

from batchlic.errors import UsageError


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket on a loopback address; port 0 picks a free port. Raises UsageError."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise UsageError(f"The sandbox listens on loopback only, not on {host}: use 127.0.0.1.")
    try:
        return socket.create_server((host, port), backlog=2048)
    except OSError as error:
        raise UsageError(f"The sandbox can't listen on {host}:{port}: {error.strerror}.") from None


def base_url(listener: socket.socket) -> str:
    """The value of BATCHLIC_BASE_URL for a sandbox on this socket."""
    host, port = listener.getsockname()[:2]
    return f"http://{host}:{port}/api"
