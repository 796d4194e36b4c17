"""What has been taken, in Redis: the limits of several gateways together.

Taking is one round trip. Giving back happens in the background, in batches: no request waits for it. A
script that Redis finds in a socket after it was frozen does nothing, since it brings the time until which it
may run; a batch that is sent twice counts once.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from redis.asyncio import Redis as Client
from redis.exceptions import NoScriptError

from adaptive_lora.errors import RedisUnavailable
from adaptive_lora.serving.quotas.checks import BudgetCheck, Check, LeaseCheck, RateCheck, Verdict
from adaptive_lora.serving.quotas.ledger import Refund
from adaptive_lora.serving.quotas.lua import SETTLE, TAKE
from adaptive_lora.serving.redis import PREFIX, Redis

_log = logging.getLogger(__name__)

MAX_BATCH: Final = 256
RETRY_S: Final = 0.2
KEEP_BUDGET_MS: Final = 86_400_000
"""How long a period's count is kept after its end."""


class SharedLedger:
    """The same as a `Ledger`, on Redis' clock. Raises RedisUnavailable as `Redis.call` does."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._ahead_us: float | None = None
        """Of the server's clock before ours, as far as answers have shown."""
        self._refunds = _Batch()
        self._flushing: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        return self._redis.is_up

    async def take(self, checks: Sequence[Check]) -> Verdict:
        keys = [PREFIX + check.key for check in checks]
        deadline_us = 0.0
        if self._ahead_us is not None:
            deadline_us = time.monotonic() * 1e6 + self._ahead_us + self._redis.timeout_s * 1e6
        words = " ".join([repr(deadline_us), *map(_words, checks)])
        try:
            reply: bytes = await self._redis.call(lambda client: _run(client, TAKE, keys, words))
        except RedisUnavailable:
            self._ahead_us = None
            raise
        outcome, now, *readings = reply.split()
        now_us = float(now)
        ahead_us = now_us - time.monotonic() * 1e6
        self._ahead_us = ahead_us if self._ahead_us is None else max(ahead_us, self._ahead_us)
        if outcome == b"late":
            self._ahead_us = None
            raise RedisUnavailable("Redis took too long")
        return Verdict(tuple(checks), tuple(map(float, readings)), now_us)

    def give_back(self, refunds: Sequence[Refund]) -> None:
        """In a moment, or when Redis answers again."""
        for refund in refunds:
            self._refunds.add(refund)
        if self._refunds and (self._flushing is None or self._flushing.done()):
            self._flushing = asyncio.create_task(self._flush())

    async def close(self) -> None:
        """Give back what can be given back now."""
        if self._flushing is not None:
            try:
                async with asyncio.timeout(2 * self._redis.timeout_s):
                    await asyncio.gather(self._flushing, return_exceptions=True)
            except TimeoutError:
                _log.warning("limits: Redis was away; what requests gave back last is not counted there")

    async def _flush(self) -> None:
        """At once; what comes while a batch is on its way goes with the next."""
        while self._refunds:
            batch, self._refunds = self._refunds.split(MAX_BATCH)
            await self._deliver(*batch.script_arguments())

    async def _deliver(self, keys: Sequence[str], words: str) -> None:
        """Until Redis has it: the batch's own key makes a second delivery harmless."""
        while True:
            try:
                await self._redis.call(lambda client: _run(client, SETTLE, keys, words))
                return
            except RedisUnavailable:
                await asyncio.sleep(RETRY_S)


@dataclass(slots=True)
class _Batch:
    """Refunds by key, so that its size is bounded by the number of accounts and of requests in flight."""

    rates_us: dict[str, float] = field(default_factory=dict)
    budgets: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The change, and how many milliseconds to keep the count."""
    leases: dict[tuple[str, str], None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.rates_us or self.budgets or self.leases)

    def add(self, refund: Refund) -> None:
        match refund.check:
            case RateCheck(key=key, interval_us=interval_us):
                self.rates_us[key] = self.rates_us.get(key, 0.0) + refund.n * interval_us
            case BudgetCheck(key=key, ttl_us=ttl_us):
                change, _ = self.budgets.get(key, (0, 0))
                self.budgets[key] = (change - refund.n, _kept_ms(ttl_us))
            case LeaseCheck(key=key, lease=lease):
                self.leases[key, lease] = None

    def split(self, n: int) -> tuple[_Batch, _Batch]:
        """The first `n` of each kind, and the rest."""
        parts = [[dict(list(each.items())[:n]), dict(list(each.items())[n:])] for each in self._kinds()]
        first, rest = zip(*parts, strict=True)
        return _Batch(*first), _Batch(*rest)

    def script_arguments(self) -> tuple[list[str], str]:
        entries = [
            *((key, f"rate {back_us!r} -") for key, back_us in self.rates_us.items()),
            *((key, f"budget {change} {kept_ms}") for key, (change, kept_ms) in self.budgets.items()),
            *((key, f"lease {lease} -") for key, lease in self.leases),
        ]
        keys = [f"{PREFIX}settled:{secrets.token_hex(16)}", *(PREFIX + key for key, _ in entries)]
        return keys, " ".join(words for _, words in entries)

    def _kinds(self) -> tuple[dict[Any, Any], ...]:
        return self.rates_us, self.budgets, self.leases


async def _run(client: Client, script: str, keys: Sequence[str], words: str) -> Any:
    """A script by its hash; in full where Redis does not know it (the first time, and after a restart)."""
    try:
        return await client.evalsha(_digest(script), len(keys), *keys, words)
    except NoScriptError:
        return await client.eval(script, len(keys), *keys, words)


@cache
def _digest(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _words(check: Check) -> str:
    match check:
        case RateCheck():
            return f"rate {check.cost_us!r} {check.tolerance_us!r} -"
        case LeaseCheck():
            return f"lease {check.limit} {check.ttl_us!r} {check.lease}"
        case BudgetCheck():
            return f"budget {check.n} {check.limit} {_kept_ms(check.ttl_us)}"


def _kept_ms(ttl_us: float) -> int:
    return int(ttl_us // 1000) + KEEP_BUDGET_MS
