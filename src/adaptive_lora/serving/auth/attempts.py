"""How often an address may fail to say who calls. Beyond it the answer is 429 instead of 401.

What is right is always believed, and costs nothing here: many people share an address, and one of them must
not be able to lock out the others. So this is no lock against guessing (256 random bits are), but it tells a
client with an old credential to stop, and operators that somebody tries (`rate_limited_total`).
"""

from __future__ import annotations

from adaptive_lora.errors import RateLimited
from adaptive_lora.serving.quotas.checks import MINUTE_US, RateCheck
from adaptive_lora.serving.quotas.limiter import Limiter
from adaptive_lora.serving.quotas.tiers import network_of


class Attempts:
    """Counts failed authentications of each address, in all gateways together where they share a Redis."""

    def __init__(self, limiter: Limiter, *, per_minute: int) -> None:
        """`per_minute` is also how many may fail at once."""
        self._limiter = limiter
        self._per_minute = per_minute
        self._interval_us = MINUTE_US / per_minute

    async def failed(self, address: str) -> RateLimited | None:
        """Count a failure. None while the address may fail; else the refusal to answer with."""
        network = network_of(address)
        check = RateCheck(
            f"limit:attempts:{network}", "attempts", 1, self._per_minute, self._interval_us, MINUTE_US
        )
        verdict, _ = await self._limiter.take([check])
        if not verdict.denied:
            return None
        wait_s = verdict.retry_after_us(verdict.denied[0]) / 1e6  # a share of `check` while Redis is away
        return RateLimited(
            f"more than {self._per_minute} credentials that prove nothing came from your address within a "
            f"minute: mend yours, and try again in {wait_s:.3f} s",
            retry_after_s=wait_s,
        )
