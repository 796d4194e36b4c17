"""What has been taken, in this process: the limits of a gateway without Redis, and while Redis is away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from adaptive_lora.serving.quotas.checks import BudgetCheck, Check, LeaseCheck, RateCheck, Verdict

T = TypeVar("T")

MAX_ACCOUNTS: Final = 50_000
"""Kept of each kind; those used longest ago go first, after those that can be forgotten without loss."""


@dataclass(frozen=True, slots=True)
class Refund:
    """What to undo of a check that was taken: `n` of its requests or tokens, or its lease. A negative `n`
    takes more, whatever the limit is."""

    check: Check
    n: int = 0


class Ledger:
    """Pure state: the caller brings the time."""

    def __init__(self, *, max_accounts: int = MAX_ACCOUNTS) -> None:
        self._max_accounts = max_accounts
        self._arrivals_us: dict[str, float] = {}
        self._leases: dict[str, set[str]] = {}
        self._budgets: dict[str, tuple[float, float]] = {}
        """Tokens used, and when the period ends."""

    def take(self, checks: Sequence[Check], now_us: float) -> Verdict:
        """All of `checks`, or none."""
        verdict = Verdict(tuple(checks), tuple(self._read(check, now_us) for check in checks), now_us)
        if not verdict.denied:
            for check, reading in zip(verdict.checks, verdict.readings, strict=True):
                self._charge(check, reading, now_us)
        return verdict

    def note(self, checks: Sequence[Check], now_us: float) -> None:
        """Count what was taken elsewhere; an account is emptied by it, and not more than that."""
        for check in checks:
            self._charge(check, self._read(check, now_us), now_us)
            if isinstance(check, RateCheck) and check.key in self._arrivals_us:
                limit = now_us + check.tolerance_us
                self._arrivals_us[check.key] = min(self._arrivals_us[check.key], limit)

    def learn(self, check: BudgetCheck, used: float, now_us: float) -> None:
        """What is known from elsewhere about a budget."""
        self._set_budget(check.key, used, now_us + check.ttl_us, now_us)

    def give_back(self, refunds: Sequence[Refund], now_us: float) -> None:
        for refund in refunds:
            match refund.check:
                case RateCheck(key=key, interval_us=interval_us):
                    arrival_us = self._arrivals_us.get(key, now_us)
                    if refund.n < 0:
                        arrival_us = max(arrival_us, now_us)
                    self._arrivals_us[key] = arrival_us - refund.n * interval_us
                case LeaseCheck(key=key, lease=lease):
                    held = self._leases.get(key, set())
                    held.discard(lease)
                    if not held:
                        self._leases.pop(key, None)
                case BudgetCheck(key=key, weight=weight):
                    if key in self._budgets:
                        used, ends_us = self._budgets[key]
                        self._budgets[key] = (max(0.0, used - refund.n * weight), ends_us)

    def _read(self, check: Check, now_us: float) -> float:
        match check:
            case RateCheck(key=key):
                arrival_us = self._arrivals_us.get(key, 0.0)
                if arrival_us > check.latest_us(now_us):
                    arrival_us = self._arrivals_us[key] = check.latest_us(now_us)
                return arrival_us
            case LeaseCheck(key=key):
                return len(self._leases.get(key, ()))
            case BudgetCheck(key=key):
                return self._budgets.get(key, (0.0, 0.0))[0]

    def _charge(self, check: Check, reading: float, now_us: float) -> None:
        match check:
            case RateCheck(key=key, n=n):
                if n:
                    self._arrivals_us.pop(key, None)  # the dictionary's order is that of the last use
                    self._arrivals_us[key] = check.taken_us(reading, now_us)
                    if len(self._arrivals_us) > self._max_accounts:
                        busy = {key: at for key, at in self._arrivals_us.items() if at > now_us}
                        self._arrivals_us = self._newest(busy)
            case LeaseCheck(key=key, lease=lease):
                self._leases.setdefault(key, set()).add(lease)
            case BudgetCheck(key=key, n=n, weight=weight):
                self._set_budget(key, reading + n * weight, now_us + check.ttl_us, now_us)

    def _set_budget(self, key: str, used: float, ends_us: float, now_us: float) -> None:
        self._budgets.pop(key, None)
        self._budgets[key] = (used, ends_us)
        if len(self._budgets) > self._max_accounts:
            running = {key: budget for key, budget in self._budgets.items() if budget[1] > now_us}
            self._budgets = self._newest(running)

    def _newest(self, accounts: dict[str, T]) -> dict[str, T]:
        """Three quarters of what there is room for, at most."""
        n_kept = self._max_accounts * 3 // 4
        return accounts if len(accounts) <= n_kept else dict(list(accounts.items())[-n_kept:])
