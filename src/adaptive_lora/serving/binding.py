"""Which address may be bound, and which host names are answered."""

from __future__ import annotations

import ipaddress
import logging
import resource
import socket

from adaptive_lora.errors import SettingsError
from adaptive_lora.settings import ApiSettings, MonitoringSettings, Settings

_log = logging.getLogger(__name__)

BACKLOG = 2048
"""Connections that wait to be accepted."""
FILES_BESIDE = 512
"""Files and connections of a process besides those of its callers."""
_LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name other than localhost may resolve to anything: no."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind(settings: Settings) -> None:
    """Raises SettingsError for an address that others can reach, unless it is known who calls, or the
    settings say in as many words that nobody asks."""
    api, auth = settings.api, settings.auth
    if auth.enabled and auth.allow_insecure:
        raise SettingsError(
            "auth.enabled and auth.allow_insecure are both true, and contradict each other: choose one"
        )
    if auth.enabled:
        return
    is_told = "enabled" in auth.model_fields_set and auth.allow_insecure
    if not is_told and not is_loopback(api.host):
        raise SettingsError(
            f"api.host is {api.host!r}, which other machines can reach, and authentication is off: set "
            "auth.enabled: true, or bind 127.0.0.1; if something in front of this server decides who may "
            "call it, say so with auth.enabled: false and auth.allow_insecure: true, or with --insecure"
        )
    if api.admin_port is not None and not is_loopback(api.admin_host):
        raise SettingsError(
            f"api.admin_host is {api.admin_host!r}, which other machines can reach, and authentication is "
            "off: administrators' endpoints are never served so; set auth.enabled: true, or bind 127.0.0.1"
        )


def bind(host: str, port: int, *, keys: str = "api.host and api.port") -> socket.socket:
    """A listening socket. Raises SettingsError, which names the settings' keys, if it cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host}, port {port} ({error.strerror or error}): stop what uses it, "
            f"or set {keys} to an address of this machine that is free"
        ) from error


def allow_open_files(n_connections: int) -> None:
    """Raise this process's limit of open files (`ulimit -n`) to what so many connections need, as far as it
    may be raised; say so if that is too little."""
    wanted = n_connections + FILES_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(most, soft), hard))
    if most < wanted:
        _log.warning(
            "only %d files may be open (ulimit -n), and api.max_connections (%d) needs %d",
            most,
            n_connections,
            wanted,
        )


def url_of(host: str, listener: socket.socket) -> str:
    """Where the server answers; the port is the one that was bound."""
    host = host.strip("[]")
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def allowed_hosts(api: ApiSettings) -> tuple[str, ...]:
    """Host names that requests may carry; empty allows any. On a loopback address only its own names are."""
    if api.allowed_hosts:
        return api.allowed_hosts
    return _own_names(api.host)


def admin_hosts(api: ApiSettings) -> tuple[str, ...]:
    """As `allowed_hosts`, for the administrators' port."""
    return _own_names(api.admin_host) or api.allowed_hosts


def metrics_hosts(monitoring: MonitoringSettings) -> tuple[str, ...]:
    """As `allowed_hosts`, for Prometheus' port: it asks by the address that it found."""
    return _own_names(monitoring.metrics_host)


def _own_names(host: str) -> tuple[str, ...]:
    return (*_LOOPBACK_HOSTS, host) if is_loopback(host) else ()
