"""Asks for what a request takes, and gives back what it did not use.

With Redis, all gateways share the limits. While it is away, and without it, each keeps its own part of them:
the limit divided by `rate_limiting.replicas`. A gateway counts along what it took in Redis, so that an outage
brings nobody a second burst.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from adaptive_lora.errors import BudgetSpent, InvalidRequest, RateLimited, RedisUnavailable
from adaptive_lora.serving.principal import Principal
from adaptive_lora.serving.quotas.checks import EPOCH_S, BudgetCheck, Check, LeaseCheck, RateCheck, Verdict
from adaptive_lora.serving.quotas.headers import rate_headers
from adaptive_lora.serving.quotas.ledger import Ledger, Refund
from adaptive_lora.serving.quotas.shared import SharedLedger
from adaptive_lora.serving.quotas.tiers import Account, Tiers
from adaptive_lora.serving.redis import Redis
from adaptive_lora.settings import RateLimitingSettings
from adaptive_lora.telemetry.limits import LimitMetrics

LEASE_MARGIN_S: Final = 10.0
"""How much longer than a request can take a dead gateway holds its callers' places."""


class Limiter:
    """The limits of one gateway process."""

    def __init__(
        self,
        settings: RateLimitingSettings,
        *,
        timeout_s: float,
        redis: Redis | None = None,
        metrics: LimitMetrics | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`timeout_s` is the longest that a request may take. `clock` gives Unix time."""
        self._tiers = Tiers(settings)
        self._replicas = settings.replicas
        self._lease_us = (timeout_s + LEASE_MARGIN_S) * 1e6
        self._own = Ledger()
        self._shared = SharedLedger(redis) if redis is not None else None
        self._metrics = metrics or LimitMetrics()
        self._clock = clock

    def grant(self, principal: Principal, address: str) -> Grant:
        """For one request of a caller, which is known by `address` if by nothing else. Enter it:

        async with limiter.grant(principal, address) as grant:
            ...
            await grant.reserve(n_prompt_tokens + max_tokens)
            ...
            grant.spend(n_tokens)  # as they are used
        """
        accounts = self._tiers.accounts(principal, address)
        return Grant(self, accounts, self._lease_us)

    async def close(self) -> None:
        if self._shared is not None:
            await self._shared.close()

    async def take(self, checks: Sequence[Check]) -> tuple[Verdict, bool]:
        """All of `checks` or none, and whether the limits were those of all gateways together."""
        if self._shared is not None and self._shared.is_up:
            try:
                verdict = await self._shared.take(checks)
            except RedisUnavailable:
                self._undo(checks)
            else:
                self._count_along(verdict)
                self._count(verdict, "shared")
                return verdict, True
        verdict = self._own.take(self._shares(checks), self._now_us())
        self._count(verdict, "own")
        return verdict, False

    def give_back(self, refunds: Sequence[Refund], *, is_shared: bool) -> None:
        """`refunds` are of checks as they were given to `take`."""
        mine = [Refund(refund.check.share(self._replicas), refund.n) for refund in refunds]
        self._own.give_back(mine, self._now_us())
        if self._shared is not None and is_shared:
            self._shared.give_back(refunds)

    def report(self, check: BudgetCheck, n: int) -> None:
        """What was spent of a budget while Redis was away."""
        if self._shared is not None and n:
            self._shared.give_back([Refund(check, -n)])

    def now_s(self) -> float:
        return self._clock()

    def _now_us(self) -> float:
        return (self._clock() - EPOCH_S) * 1e6

    def _shares(self, checks: Sequence[Check]) -> list[Check]:
        return [check.share(self._replicas) for check in checks]

    def _count_along(self, verdict: Verdict) -> None:
        now_us = self._now_us()
        if not verdict.denied:
            self._own.note(self._shares(verdict.checks), now_us)
        for check, used in zip(verdict.checks, verdict.readings, strict=True):
            if isinstance(check, BudgetCheck):
                self._own.learn(check, used + (0 if verdict.denied else check.n), now_us)

    def _undo(self, checks: Sequence[Check]) -> None:
        """Redis may have taken it before it went away: then a place would be held by nobody."""
        leases = [Refund(check) for check in checks if isinstance(check, LeaseCheck)]
        if self._shared is not None and leases:
            self._shared.give_back(leases)

    def _count(self, verdict: Verdict, where: str) -> None:
        self._metrics.checked(where)
        for reason in dict.fromkeys(check.reason for check in verdict.denied):
            self._metrics.limited(reason)


class Grant:
    """What one request has taken. Entering takes the request and a place; leaving gives back the place, and
    the tokens that were reserved and not spent."""

    def __init__(self, limiter: Limiter, accounts: Sequence[Account], lease_us: float) -> None:
        self._limiter = limiter
        self._accounts = accounts
        self._lease_us = lease_us
        self._held: list[tuple[Check, bool]] = []
        self._verdicts: list[Verdict] = []
        self._n_reserved = 0
        self._n_spent = 0

    async def __aenter__(self) -> Self:
        """Raises RateLimited."""
        lease = secrets.token_hex(8)
        await self._take([c for each in self._accounts for c in each.entry(lease, self._lease_us)])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._settle()

    async def reserve(self, n_tokens: int) -> None:
        """Before a generation: the tokens of its prompt, and the most that it may generate. Adds to what is
        reserved already.

        Raises RateLimited, BudgetSpent, and InvalidRequest for more than could ever be allowed.
        """
        for each in self._accounts:
            most = each.limits.most_tokens
            if most is not None and n_tokens > most:
                raise InvalidRequest(
                    f"this asks for up to {n_tokens} tokens, prompt included, and {most} are allowed at "
                    "most: shorten the prompt, or ask for fewer max_tokens"
                )
        now_s = self._limiter.now_s()
        await self._take([c for each in self._accounts for c in each.tokens(n_tokens, now_s)])
        self._n_reserved += n_tokens

    def spend(self, n_tokens: int) -> None:
        """Tokens that were used: of the prompt, once it has been read; and as they are generated."""
        self._n_spent += n_tokens

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What the answer says about the limits, also when they refused the request."""
        return rate_headers(self._verdicts)

    async def _take(self, checks: Sequence[Check]) -> None:
        if not checks:
            return
        verdict, is_shared = await self._limiter.take(checks)
        self._verdicts.append(verdict)
        if verdict.denied:
            raise _refusal(verdict)
        self._held += [(check, is_shared) for check in checks]

    def _settle(self) -> None:
        """Once. What is spent beyond all reservations is taken, too, whatever the limit."""
        held, self._held = self._held, []
        unspent = self._n_reserved - self._n_spent
        left: dict[str, int] = {}
        refunds: dict[bool, list[Refund]] = {True: [], False: []}
        for check, is_shared in held:
            if isinstance(check, LeaseCheck):
                refunds[is_shared].append(Refund(check))
            elif check.reason != "requests":
                back = min(left.get(check.key, unspent), check.n)
                left[check.key] = left.get(check.key, unspent) - back
                if back:
                    refunds[is_shared].append(Refund(check, back))
                if isinstance(check, BudgetCheck) and not is_shared:
                    self._limiter.report(check, check.n - back)
        for is_shared, those in refunds.items():
            if those:
                self._limiter.give_back(those, is_shared=is_shared)


def _refusal(verdict: Verdict) -> RateLimited:
    """The error of the check that has to be waited for longest."""
    check = max(verdict.denied, key=verdict.retry_after_us)
    wait_s = verdict.retry_after_us(check) / 1e6
    match check:
        case RateCheck(reason="requests"):
            text = f"more than {check.per_minute} requests a minute: try again in {wait_s:.3f} s"
        case RateCheck():
            text = f"more than {check.per_minute} tokens a minute: try again in {wait_s:.3f} s"
        case LeaseCheck():
            text = f"{check.limit} requests are in flight, which is your limit: try again when one is done"
        case BudgetCheck():
            text = f"less of the month's {check.limit} tokens is left than this may take"
            return BudgetSpent(text, retry_after_s=wait_s)
    return RateLimited(text, retry_after_s=wait_s)
