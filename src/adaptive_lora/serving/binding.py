"""Which address may be bound, and which host names are answered."""

from __future__ import annotations

import ipaddress

from adaptive_lora.errors import SettingsError
from adaptive_lora.settings import ApiSettings, Settings

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
    """Raises SettingsError for an address that others can reach, unless `insecure`, and for more than one
    worker."""
    if settings.api.workers > 1:
        raise SettingsError(
            "api.workers is more than 1, but the engine runs inside this process: use 1 (one worker per GPU)"
        )
    if not insecure and not is_loopback(settings.api.host):
        raise SettingsError(
            f"api.host is {settings.api.host!r}, which other machines can reach, and there is no "
            "authentication yet: bind 127.0.0.1, "
            "or pass --insecure if something in front of this server decides who may call it"
        )


def allowed_hosts(api: ApiSettings) -> tuple[str, ...]:
    """Host names that requests may carry; empty allows any. On a loopback address only its own names are."""
    if api.allowed_hosts:
        return api.allowed_hosts
    return (*_LOOPBACK_HOSTS, api.host) if is_loopback(api.host) else ()
