"""What a request is checked against, as arithmetic on a stored number and a time. No clock, no state, no I/O.

Rates are the generic cell rate algorithm (GCRA; ATM Forum TM 4.0; the same as a bucket of tokens). One number
is kept: the theoretical arrival time, when everything taken so far will have been earned. Taking n moves it
n intervals on, and is allowed while it stays within the tolerance from now. So in a time t at most
`rate * t + burst` are taken.

Times are microseconds since `EPOCH_S`: as doubles, which Lua has, they keep 1/64 µs until 2030.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal

EPOCH_S: Final = 1_767_225_600
"""2026-01-01T00:00:00Z in Unix time."""

MINUTE_US: Final = 60_000_000.0
SLACK_US: Final = 1.0
"""For the rounding of doubles: a burst taken one by one ends exactly at the tolerance."""

Reason = Literal["requests", "tokens", "concurrency", "budget", "attempts"]


@dataclass(frozen=True, slots=True)
class RateCheck:
    """Take `n` of what comes back at `per_minute`. With n = 0 it looks, and fails only if there is a debt."""

    key: str
    reason: Literal["requests", "tokens", "attempts"]
    n: int
    per_minute: int
    interval_us: float
    """Time that earns one."""
    tolerance_us: float
    """Time that earns a whole burst."""

    @property
    def cost_us(self) -> float:
        return self.n * self.interval_us

    def latest_us(self, now_us: float) -> float:
        """What is stored is cut to this: a clock that was set back makes nobody wait for more than two
        bursts."""
        return now_us + 2 * self.tolerance_us

    def wait_us(self, arrival_us: float, now_us: float) -> float:
        """How long until it is allowed; 0 if it is."""
        wait = max(arrival_us, now_us) + self.cost_us - now_us - self.tolerance_us
        return wait if wait > SLACK_US else 0.0

    def taken_us(self, arrival_us: float, now_us: float) -> float:
        """What is stored once it is taken: nothing is earned beyond the burst."""
        return max(arrival_us, now_us) + self.cost_us

    def remaining(self, arrival_us: float, now_us: float) -> int:
        """How many could be taken at once."""
        free = self.tolerance_us + SLACK_US - self.reset_us(arrival_us, now_us)
        return max(0, int(free / self.interval_us))

    def reset_us(self, arrival_us: float, now_us: float) -> float:
        """How long until the whole burst is there."""
        return max(arrival_us, now_us) - now_us

    def share(self, replicas: int) -> RateCheck:
        """One gateway's part of it. Whatever fits the whole burst still fits, if nothing else was taken."""
        interval_us = self.interval_us * replicas
        return replace(
            self, interval_us=interval_us, tolerance_us=max(self.tolerance_us, self.n * interval_us)
        )


@dataclass(frozen=True, slots=True)
class LeaseCheck:
    """Hold one of `limit` places, until it is given back, or its holder has been dead for `ttl_us`."""

    key: str
    lease: str
    limit: int
    ttl_us: float
    reason: Literal["concurrency"] = "concurrency"

    def allows(self, n_held: float) -> bool:
        return n_held < self.limit

    def share(self, replicas: int) -> LeaseCheck:
        return replace(self, limit=max(1, self.limit // replicas))


@dataclass(frozen=True, slots=True)
class BudgetCheck:
    """Take `n` tokens of the period that `key` names and that ends in `ttl_us`."""

    key: str
    n: int
    limit: int
    ttl_us: float
    weight: int = 1
    """What a token counts: the number of gateways, while each has to assume that all spend what it spends."""
    reason: Literal["budget"] = "budget"

    def allows(self, used: float) -> bool:
        return used + self.n * self.weight <= self.limit

    def share(self, replicas: int) -> BudgetCheck:
        return replace(self, weight=replicas)


Check = RateCheck | LeaseCheck | BudgetCheck


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to several checks at once: all are taken, or none."""

    checks: tuple[Check, ...]
    readings: tuple[float, ...]
    """What was stored, per check, before it was taken: an arrival time, a number of leases, tokens used."""
    now_us: float
    denied: tuple[Check, ...] = field(init=False)

    def __post_init__(self) -> None:
        pairs = zip(self.checks, self.readings, strict=True)
        denied = tuple(check for check, reading in pairs if not _allows(check, reading, self.now_us))
        object.__setattr__(self, "denied", denied)

    def retry_after_us(self, check: Check) -> float:
        """When the same would be allowed by this check; a place may become free at any time: a second."""
        reading = self.readings[self.checks.index(check)]
        match check:
            case RateCheck():
                return check.wait_us(reading, self.now_us)
            case LeaseCheck():
                return 1_000_000.0
            case BudgetCheck():
                return check.ttl_us


def _allows(check: Check, reading: float, now_us: float) -> bool:
    if isinstance(check, RateCheck):
        return check.wait_us(reading, now_us) == 0.0
    return check.allows(reading)
