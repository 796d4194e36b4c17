"""Ports for servers that tests start and that cannot choose one themselves."""

from __future__ import annotations

import socket


def free_port() -> int:
    """On loopback. Somebody else may take it until it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
