"""Where the workers are: URLs that are listed, or the addresses of a DNS name (a headless service)."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from adaptive_lora.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Address:
    """One worker. `host` is the name that its certificate must carry, where that is not in the URL."""

    url: str
    host: str | None = None


def listed(urls: tuple[str, ...]) -> list[Address]:
    """Raises SettingsError for what is not http(s)://host:port."""
    return [Address(_checked(url.rstrip("/"))) for url in urls]


async def resolve(name: str) -> list[Address]:
    """The addresses behind "name:port" or "https://name:port", sorted. Raises OSError if there are none."""
    parts = urlsplit(_checked(name if "://" in name else f"http://{name}"))
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
    hosts = sorted({str(address[0]) for *_, address in found})
    return [
        Address(f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{parts.port}", parts.hostname)
        for host in hosts
    ]


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port
    except ValueError:
        usable = False
    if not usable or parts.path or parts.query or parts.username is not None:
        raise SettingsError(
            f"{url!r} is no worker's address: write http://host:port, or name:port for workers.dns"
        )
    return url
