"""The arithmetic of limits, against a bucket of tokens that is written in the plainest way."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.serving.quotas.checks import MINUTE_US, BudgetCheck, LeaseCheck, RateCheck, Verdict
from adaptive_lora.serving.quotas.ledger import Ledger, Refund

NOW = 25_000_000_000_000.0
"""In October 2026: what doubles round here, they round in production."""


def rate(per_minute: int, burst: int, n: int = 1, key: str = "k") -> RateCheck:
    interval_us = MINUTE_US / per_minute
    return RateCheck(key, "requests", n, per_minute, interval_us, burst * interval_us)


@dataclass
class Bucket:
    """Exact. Earns `per_minute`, holds at most `burst`; a refund goes into it, too."""

    per_minute: int
    burst: int
    level: Fraction
    at_us: int

    def earn(self, now_us: int) -> None:
        earned = Fraction(self.per_minute * (now_us - self.at_us), 60_000_000)
        self.level, self.at_us = min(Fraction(self.burst), self.level + earned), now_us

    def take(self, n: int, now_us: int) -> bool:
        self.earn(now_us)
        if self.level < n:
            return False
        self.level -= n
        return True

    def give_back(self, n: int, now_us: int) -> None:
        self.earn(now_us)
        self.level = min(Fraction(self.burst), self.level + n)


RATES = st.tuples(st.integers(1, 1_000_000), st.integers(1, 10_000))
STEPS_US = st.one_of(st.just(0), st.integers(1, 200_000_000))
TAKES = st.lists(st.tuples(STEPS_US, st.integers(1, 500)), max_size=80)


@given(RATES, TAKES)
def test_in_no_span_of_time_is_more_taken_than_the_rate_and_a_burst(
    limits: tuple[int, int], takes: list[tuple[int, int]]
) -> None:
    per_minute, burst = limits
    ledger, now_us = Ledger(), NOW
    taken: list[tuple[float, int]] = []
    for step_us, n in takes:
        now_us += step_us
        if not ledger.take([rate(per_minute, burst, n)], now_us).denied:
            taken.append((now_us, n))
    for first, (begin_us, _) in enumerate(taken):
        total = 0
        for end_us, n in taken[first:]:
            total += n
            allowed = Fraction(per_minute) * Fraction(end_us - begin_us) / 60_000_000 + burst
            assert total <= allowed * (1 + Fraction(1, 10**6)) + Fraction(1, 10)


@given(RATES, TAKES)
def test_it_is_the_bucket_of_tokens(limits: tuple[int, int], takes: list[tuple[int, int]]) -> None:
    """What differs is within a hundredth of a microsecond of the moment when there is enough."""
    per_minute, burst = limits
    ledger, now_us = Ledger(), NOW
    bucket = Bucket(per_minute, burst, Fraction(burst), int(NOW))
    for step_us, n in takes:
        now_us += step_us
        bucket.earn(int(now_us))
        missing_us = (n - bucket.level) * 60_000_000 / per_minute
        is_taken = not ledger.take([rate(per_minute, burst, n)], now_us).denied
        if abs(missing_us) > 3:
            assert is_taken == (missing_us < 0)
        if is_taken:
            bucket.level -= n


@given(RATES, st.lists(st.tuples(STEPS_US, st.integers(1, 500), st.integers(0, 500)), max_size=60))
def test_what_is_taken_less_what_is_given_back_stays_within_the_rate(
    limits: tuple[int, int], requests: list[tuple[int, int, int]]
) -> None:
    """Each request reserves, and later gives back what it has not spent."""
    per_minute, burst = limits
    ledger, now_us, spent = Ledger(), NOW, 0
    pending: list[tuple[RateCheck, int]] = []
    for step_us, n, unspent in requests:
        now_us += step_us
        check = rate(per_minute, burst, n)
        if not ledger.take([check], now_us).denied:
            pending.append((check, min(n, unspent)))
            spent += n
        if len(pending) == 2:
            held, back = pending.pop(0)
            ledger.give_back([Refund(held, back)], now_us)
            spent -= back
        allowed = per_minute * (now_us - NOW) / MINUTE_US + burst
        assert spent <= allowed * (1 + 1e-6) + 0.1


@given(RATES, st.integers(0, 50))
def test_a_burst_fits_to_the_last_one(limits: tuple[int, int], step_us: int) -> None:
    """Also where the interval is no whole number of microseconds."""
    per_minute, burst = limits[0], min(limits[1], 300)
    ledger = Ledger()
    outcomes = [not ledger.take([rate(per_minute, burst)], NOW).denied for _ in range(burst)]
    assert all(outcomes)
    verdict = ledger.take([rate(per_minute, burst)], NOW)
    if MINUTE_US / per_minute > 2:
        assert verdict.denied


@given(RATES, st.integers(0, 200), st.integers(1, 100))
def test_the_wait_is_exact(limits: tuple[int, int], before: int, n: int) -> None:
    per_minute, burst = limits
    n = min(n, burst)
    ledger = Ledger()
    for _ in range(before):
        ledger.take([rate(per_minute, burst)], NOW)
    check = rate(per_minute, burst, n)
    verdict = ledger.take([check], NOW)
    if not verdict.denied:
        return
    wait_us = verdict.retry_after_us(check)
    early = Ledger()
    for _ in range(before):
        early.take([rate(per_minute, burst)], NOW)
    assert early.take([check], NOW + wait_us - 3).denied or wait_us < 3
    assert not ledger.take([check], NOW + wait_us).denied


def test_a_debt_is_waited_for_and_never_for_more_than_two_bursts() -> None:
    ledger, check = Ledger(), rate(60, 10, 10)
    ledger.take([check], NOW)
    ledger.give_back([Refund(check, -5)], NOW)
    look = rate(60, 10, 0)
    assert ledger.take([look], NOW).denied
    assert not ledger.take([look], NOW + 5e6).denied
    ledger.give_back([Refund(check, -1_000_000)], NOW)
    assert ledger.take([look], NOW).retry_after_us(look) == pytest.approx(10e6)


def test_a_clock_that_is_set_back_makes_nobody_wait_for_long() -> None:
    ledger, check = Ledger(), rate(60, 10)
    for _ in range(10):
        ledger.take([check], NOW)
    hour_before = NOW - 3600e6
    assert ledger.take([check], hour_before).retry_after_us(check) <= 11e6
    assert not ledger.take([check], hour_before + 11e6).denied


def test_several_checks_are_taken_together_or_not_at_all() -> None:
    ledger = Ledger()
    narrow, wide = rate(60, 1, key="narrow"), rate(60, 5, key="wide")
    assert not ledger.take([wide, narrow], NOW).denied
    for _ in range(10):
        assert ledger.take([wide, narrow], NOW).denied == (narrow,)
    assert wide.remaining(ledger.take([wide], NOW).readings[0], NOW) == 4


def test_places_are_held_and_given_back() -> None:
    ledger = Ledger()
    leases = [LeaseCheck("places", str(i), 2, 1e6) for i in range(4)]
    assert not ledger.take([leases[0]], NOW).denied
    assert not ledger.take([leases[1]], NOW).denied
    assert ledger.take([leases[2]], NOW).denied
    ledger.give_back([Refund(leases[0]), Refund(leases[0])], NOW)
    assert not ledger.take([leases[2]], NOW).denied
    assert ledger.take([leases[3]], NOW).denied


@given(
    st.integers(1, 1_000),
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 300), st.booleans()), max_size=60),
)
def test_a_budget_is_never_overspent(limit: int, requests: list[tuple[int, int, bool]]) -> None:
    """Reservations in flight included."""
    ledger, spent = Ledger(), 0
    flying: list[tuple[BudgetCheck, int]] = []
    for n, used, ends in requests:
        check = BudgetCheck("month", n, limit, 1e6)
        before = spent + sum(held.n for held, _ in flying)
        is_denied = bool(ledger.take([check], NOW).denied)
        assert is_denied == (before + n > limit)
        if not is_denied:
            flying.append((check, min(used, n)))
        if ends and flying:
            held, used = flying.pop(0)
            ledger.give_back([Refund(held, held.n - used)], NOW)
            spent += used
        assert spent + sum(held.n for held, _ in flying) <= limit


def test_a_share_divides_and_leaves_at_least_one() -> None:
    check = rate(60, 10).share(4)
    ledger = Ledger()
    at_once = sum(not ledger.take([check], NOW).denied for _ in range(10))
    assert at_once == 2
    minutes = sum(not ledger.take([check], NOW + s * 1e6).denied for s in range(1, 601))
    assert minutes == 150
    single = rate(60, 2).share(4)
    assert not Ledger().take([single], NOW).denied
    assert LeaseCheck("k", "a", 3, 1.0).share(4).limit == 1
    verdict = Ledger().take([BudgetCheck("month", 26, 100, 1e6).share(4)], NOW)
    assert verdict.denied


def test_accounts_are_bounded_and_the_full_ones_go_first() -> None:
    ledger = Ledger(max_accounts=100)
    busy = rate(1, 1, key="busy")
    ledger.take([busy], NOW)
    for i in range(90):
        ledger.take([rate(60_000, 1, key=str(i))], NOW)
    for i in range(20):
        ledger.take([rate(1, 1, key=f"later-{i}")], NOW + 1e6)
    assert ledger.take([busy], NOW + 1e6).denied
    assert len(ledger._arrivals_us) <= 100


@pytest.mark.parametrize("kind", ["rates", "budgets"])
def test_a_crowd_of_callers_costs_no_more_memory(kind: str) -> None:
    def check(i: int) -> RateCheck | BudgetCheck:
        return rate(1, 1, key=str(i)) if kind == "rates" else BudgetCheck(str(i), 1, 1, 1e6)

    ledger = Ledger(max_accounts=100)
    for i in range(1_000):
        ledger.take([check(i)], NOW)
        assert len(ledger._arrivals_us) + len(ledger._budgets) <= 100
    assert ledger.take([check(999)], NOW).denied
    assert not ledger.take([check(0)], NOW).denied


def test_what_is_taken_elsewhere_empties_an_account_and_no_more() -> None:
    ledger, check = Ledger(), rate(60, 10)
    for _ in range(100):
        ledger.note([check], NOW)
    assert ledger.take([check], NOW).denied
    assert not ledger.take([check], NOW + 1e6).denied


def test_a_verdict_names_the_checks_that_failed() -> None:
    empty, full = rate(60, 1, key="empty"), rate(60, 1, key="full")
    verdict = Verdict((empty, full), (NOW + 60e6, 0.0), NOW)
    assert verdict.denied == (empty,)
