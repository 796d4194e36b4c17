"""Asks for what a request takes, and gives back what it did not use.

With Redis, all gateways share the limits. While it is away, and without it, each keeps its own part of them:
the limit divided by `rate_limiting.replicas`. A gateway counts along what it took in Redis, so that an outage
brings nobody a second burst.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from adaptive_lora.errors import BudgetSpent, InvalidRequest, RateLimited, RedisUnavailable
from adaptive_lora.serving.principal import Principal
from adaptive_lora.serving.quotas.checks import EPOCH_S, BudgetCheck, Check, LeaseCheck, RateCheck, Verdict
from adaptive_lora.serving.quotas.headers import rate_headers
from adaptive_lora.serving.quotas.ledger import Ledger, Refund
from adaptive_lora.serving.quotas.tiers import Account, Tiers
from adaptive_lora.settings import RateLimitingSettings
from adaptive_lora.telemetry.limits import LimitMetrics

if TYPE_CHECKING:
    from adaptive_lora.serving.quotas.shared import SharedLedger

LEASE_MARGIN_S: Final = 10.0
"""How much longer than a request can take a dead gateway holds its callers' places."""


class Limiter:
    """The limits of one gateway process."""

    def __init__(
        self,
        settings: RateLimitingSettings,
        *,
        timeout_s: float,
        shared: SharedLedger | None = None,
        metrics: LimitMetrics | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`timeout_s` is the longest that a request may take. `shared` is what gateways have in common.
        `clock` gives Unix time."""
        self._tiers = Tiers(settings)
        self._replicas = settings.replicas
        self._lease_us = (timeout_s + LEASE_MARGIN_S) * 1e6
        self._own = Ledger()
        self._shared = shared
        self._metrics = metrics or LimitMetrics()
        self._clock = clock

    def grant(self, principal: Principal, address: str) -> Grant:
        """For one request of a caller, which is known by `address` if by nothing else.

            grant = limiter.grant(principal, address)
            await grant.enter()
            try:
                async with grant.tokens(n_prompt_tokens + max_tokens) as reservation:
                    reservation.spend(n_tokens)  # as they are used
            finally:
                grant.leave()

        Nothing is taken before `enter`.
        """
        return Grant(self, self._tiers.accounts(principal, address), self._lease_us)

    async def close(self) -> None:
        if self._shared is not None:
            await self._shared.close()

    async def take(self, checks: Sequence[Check]) -> tuple[Verdict, bool]:
        """All of `checks` or none, and whether the limits were those of all gateways together."""
        if self._shared is not None and self._shared.is_up:
            taking = asyncio.ensure_future(self._shared.take(checks))
            try:
                verdict = await asyncio.shield(taking)
            except RedisUnavailable:
                self._undo(checks)
            except asyncio.CancelledError:
                taking.add_done_callback(partial(self._abandon, checks))
                raise
            else:
                self._count_along(verdict)
                self._count(verdict, "shared")
                return verdict, True
        verdict = self._own.take(self._shares(checks), self._now_us())
        self._count(verdict, "own")
        return verdict, False

    def give_back(self, refunds: Sequence[Refund], *, is_shared: bool) -> None:
        """`refunds` are of checks as they were given to `take`."""
        checks = [refund.check for refund in refunds]
        mine = []
        for check, share, refund in zip(checks, self._shares(checks), refunds, strict=True):
            # What Redis counts of a budget is counted along as it is, not once for each gateway.
            is_whole = is_shared and isinstance(check, BudgetCheck)
            mine.append(Refund(check if is_whole else share, refund.n))
        self._own.give_back(mine, self._now_us())
        if self._shared is not None and is_shared:
            self._shared.give_back(refunds)

    def settle(self, checks: Sequence[Check], *, n_spent: int, is_shared: bool) -> None:
        """Give back what was taken for tokens and not spent; what was spent beyond it is taken, whatever the
        limit. What was spent of a budget while Redis was away is told to it later."""
        refunds = [Refund(check, check.n - n_spent) for check in checks if not isinstance(check, LeaseCheck)]
        self.give_back([refund for refund in refunds if refund.n], is_shared=is_shared)
        if self._shared is not None and not is_shared and n_spent:
            self._shared.give_back([Refund(c, -n_spent) for c in checks if isinstance(c, BudgetCheck)])

    def now_s(self) -> float:
        return self._clock()

    def _now_us(self) -> float:
        return (self._clock() - EPOCH_S) * 1e6

    def _shares(self, checks: Sequence[Check]) -> Sequence[Check]:
        return checks if self._replicas == 1 else [check.share(self._replicas) for check in checks]

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

    def _abandon(self, checks: Sequence[Check], taking: asyncio.Future[Verdict]) -> None:
        """Give back what was taken for a request that is no more."""
        if taking.cancelled() or taking.exception() is not None:
            self._undo(checks)
        elif self._shared is not None and not taking.result().denied:
            self._shared.give_back([Refund(c, 0 if isinstance(c, LeaseCheck) else c.n) for c in checks])

    def _count(self, verdict: Verdict, where: str) -> None:
        self._metrics.checked(where)
        for reason in dict.fromkeys(check.reason for check in verdict.denied):
            self._metrics.limited(reason)


class Grant:
    """What one request may do. Entering takes the request and a place; leaving gives back the place."""

    def __init__(self, limiter: Limiter, accounts: Sequence[Account], lease_us: float) -> None:
        self._limiter = limiter
        self._accounts = accounts
        self._lease = secrets.token_hex(8)
        self._lease_us = lease_us
        self._place: list[Refund] = []
        self._is_shared = False
        self._verdicts: list[Verdict] = []

    async def enter(self) -> None:
        """Raises RateLimited."""
        checks = [check for each in self._accounts for check in each.entry(self._lease, self._lease_us)]
        self._is_shared = await self._take(checks)
        self._place = [Refund(check) for check in checks if isinstance(check, LeaseCheck)]

    @property
    def has_place(self) -> bool:
        """Whether it counts as one of the requests in flight."""
        return bool(self._place)

    def leave(self) -> None:
        """After `enter`; again is harmless."""
        if self._place:
            self._limiter.give_back(self._place, is_shared=self._is_shared)
            self._place = []

    @asynccontextmanager
    async def tokens(self, n: int) -> AsyncIterator[Reservation]:
        """For one generation, `n` tokens: those of its prompt, and the most that it may generate. What is not
        spent of them is given back at the end, also if that is after the request's.

        Raises RateLimited, BudgetSpent, and InvalidRequest for more than could ever be allowed.
        """
        for each in self._accounts:
            most = each.limits.most_tokens
            if most is not None and n > most:
                raise InvalidRequest(
                    f"this may take {n} tokens, prompt included, and {most} are allowed at most: shorten the "
                    "prompt, or ask for fewer max_tokens"
                )
        now_s = self._limiter.now_s()
        checks = [check for each in self._accounts for check in each.tokens(n, now_s)]
        is_shared = await self._take(checks)
        reservation = Reservation()
        try:
            yield reservation
        finally:
            self._limiter.settle(checks, n_spent=reservation.n_spent, is_shared=is_shared)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What the answer says about the limits, also when they refused the request."""
        return rate_headers(self._verdicts)

    async def _take(self, checks: Sequence[Check]) -> bool:
        """Whether they were taken from what all gateways share."""
        if not checks:
            return False
        verdict, is_shared = await self._limiter.take(checks)
        self._verdicts.append(verdict)
        if verdict.denied:
            raise _refusal(verdict)
        return is_shared


@dataclass(slots=True)
class Reservation:
    """Tokens that were taken before it was known how many there will be."""

    n_spent: int = 0

    def spend(self, n: int) -> None:
        """Count tokens that were used: of the prompt, and as they are generated."""
        self.n_spent += n


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
