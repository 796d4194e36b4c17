"""Whose address a request comes from, where proxies stand in front.

A client can write anything into X-Forwarded-For; each proxy appends whom it was called by. So it is read from
the right, as long as the speaker is a proxy of ours: the first address that is not one is the client's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache

from starlette.types import Scope

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

UNKNOWN = "unknown"
"""A peer without an address: a Unix socket's."""


class ClientAddresses:
    """Believes the proxies in `trusted` (addresses or CIDR networks), and nobody else."""

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self._trusted: Sequence[_Network] = [ipaddress.ip_network(network) for network in trusted]

    def of(self, scope: Scope) -> str:
        """The client's address, in its normal form."""
        client = scope.get("client")
        speaker = _parsed(client[0]) if client else None
        if speaker is None:
            return UNKNOWN
        if self._trusted and self._is_trusted(speaker):
            named = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
            for text in reversed(named.decode("latin-1").split(",")):
                earlier = _parsed(text)
                if earlier is None:
                    break
                speaker = earlier
                if not self._is_trusted(speaker):
                    break
        return str(speaker)

    def _is_trusted(self, address: _Address) -> bool:
        return any(address in network for network in self._trusted)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> _Address | None:
    """An address, also as "[v6]:port", "v4:port" and IPv4 written as IPv6."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
