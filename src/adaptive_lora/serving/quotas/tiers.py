"""Whose limits apply to a request, and what they are."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from adaptive_lora.serving.principal import ANYBODY, DEFAULT_TIER, Principal
from adaptive_lora.serving.quotas.checks import MINUTE_US, BudgetCheck, Check, LeaseCheck, RateCheck
from adaptive_lora.settings import RateLimitingSettings

_log = logging.getLogger(__name__)

MAX_UNKNOWN_TIERS: Final = 100
"""Names that are remembered as having been logged."""


@dataclass(frozen=True, slots=True)
class Limits:
    """None is no limit."""

    requests_per_minute: int | None
    burst_size: int
    tokens_per_minute: int | None
    token_burst: int | None
    """Tokens at once; None is a minute's."""
    max_concurrent: int | None
    tokens_per_month: int | None

    @property
    def most_tokens(self) -> int | None:
        """What one request can ever be given."""
        at_once = self.token_burst or self.tokens_per_minute if self.tokens_per_minute else None
        return min((n for n in (at_once, self.tokens_per_month) if n is not None), default=None)

    def part(self, share: float) -> Limits:
        """A share of each, at least one."""

        def of(limit: int | None) -> int | None:
            return None if limit is None else max(1, int(limit * share))

        return Limits(
            of(self.requests_per_minute),
            max(1, int(self.burst_size * share)),
            of(self.tokens_per_minute),
            of(self.token_burst),
            of(self.max_concurrent),
            of(self.tokens_per_month),
        )


@dataclass(frozen=True, slots=True)
class Account:
    """One holder of limits: a tenant, one of its keys, or an address."""

    key: str
    limits: Limits

    def entry(self, lease: str, lease_us: float) -> Iterator[Check]:
        """What every request takes: itself, and a place. The tokens are looked at: a debt comes first."""
        limits = self.limits
        if limits.requests_per_minute is not None:
            interval_us = MINUTE_US / limits.requests_per_minute
            tolerance_us = limits.burst_size * interval_us
            key = f"{self.key}:requests"
            yield RateCheck(key, "requests", 1, limits.requests_per_minute, interval_us, tolerance_us)
        if limits.max_concurrent is not None:
            yield LeaseCheck(f"{self.key}:leases", lease, limits.max_concurrent, lease_us)
        yield from self._token_rate(0)

    def tokens(self, n: int, now_s: float) -> Iterator[Check]:
        """What a generation takes. Months are those of UTC."""
        yield from self._token_rate(n)
        if self.limits.tokens_per_month is not None:
            now = datetime.fromtimestamp(now_s, UTC)
            first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            following = first.replace(year=now.year + now.month // 12, month=now.month % 12 + 1)
            ttl_us = (following - now).total_seconds() * 1e6
            key = f"{self.key}:tokens:{now:%Y-%m}"
            yield BudgetCheck(key, n, self.limits.tokens_per_month, ttl_us)

    def _token_rate(self, n: int) -> Iterator[RateCheck]:
        per_minute = self.limits.tokens_per_minute
        if per_minute is not None:
            interval_us = MINUTE_US / per_minute
            tolerance_us = (self.limits.token_burst or per_minute) * interval_us
            yield RateCheck(f"{self.key}:tokens", "tokens", n, per_minute, interval_us, tolerance_us)


class Tiers:
    """From settings: the limits of every tier."""

    def __init__(self, settings: RateLimitingSettings) -> None:
        self._default = Limits(
            settings.requests_per_minute,
            settings.burst_size,
            settings.tokens_per_minute,
            settings.token_burst,
            settings.max_concurrent,
            settings.tokens_per_month,
        )
        self._named = {
            name: replace(self._default, **tier.model_dump(exclude_unset=True))
            for name, tier in settings.tiers.items()
        }
        self._key_share = settings.key_share
        self._unknown: set[str] = set()

    def accounts(self, principal: Principal, address: str) -> tuple[Account, ...]:
        """The accounts that a request is charged to. Callers who are nobody in particular each have an
        address's; others have their tenant's, and the credential's where one may not use up all of it."""
        limits = self._limits(principal.tier)
        if principal == ANYBODY:
            return (Account(f"limit:address:{network_of(address)}", limits),)
        tenant = f"limit:tenant:{principal.tenant}"
        if self._key_share == 1.0:
            return (Account(tenant, limits),)
        credential = principal.key_id or principal.subject
        key = f"limit:key:{len(principal.tenant)}:{principal.tenant}:{credential}"
        return Account(tenant, limits), Account(key, limits.part(self._key_share))

    def _limits(self, tier: str) -> Limits:
        if tier in self._named:
            return self._named[tier]
        if tier != DEFAULT_TIER and tier not in self._unknown and len(self._unknown) < MAX_UNKNOWN_TIERS:
            self._unknown.add(tier)
            _log.warning("there is no tier %r in rate_limiting.tiers: the default limits apply", tier)
        return self._default


def network_of(address: str) -> str:
    """What one caller can hold of addresses: an IPv4 address, or 64 bits of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)
