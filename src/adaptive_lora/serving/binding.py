"""Which address may be bound, and which host names are answered."""

from __future__ import annotations

import ipaddress
import socket

from adaptive_lora.errors import SettingsError
from adaptive_lora.settings import ApiSettings, Settings

BACKLOG = 2048
"""Connections that wait to be accepted."""
_LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name other than localhost may resolve to anything: no."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind(settings: Settings, insecure: bool) -> None:
    """Raises SettingsError for an address that others can reach, unless `insecure`."""
    if not insecure and not is_loopback(settings.api.host):
        raise SettingsError(
            f"api.host is {settings.api.host!r}, which other machines can reach, and there is no "
            "authentication yet: bind 127.0.0.1, "
            "or pass --insecure if something in front of this server decides who may call it"
        )


def bind(api: ApiSettings) -> socket.socket:
    """A listening socket on the configured address. Raises SettingsError if it cannot be had."""
    host = api.host.strip("[]")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, api.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {api.host}, port {api.port} ({error.strerror or error}): stop what uses it, "
            "or set api.host and api.port to an address of this machine that is free"
        ) from error


def url_of(api: ApiSettings, listener: socket.socket) -> str:
    """Where the server answers; the port is the one that was bound."""
    host = api.host.strip("[]")
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def allowed_hosts(api: ApiSettings) -> tuple[str, ...]:
    """Host names that requests may carry; empty allows any. On a loopback address only its own names are."""
    if api.allowed_hosts:
        return api.allowed_hosts
    return (*_LOOPBACK_HOSTS, api.host) if is_loopback(api.host) else ()
