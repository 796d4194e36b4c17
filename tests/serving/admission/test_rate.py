"""How fast the engine is: known late, and not misled."""

from __future__ import annotations

import pytest

from adaptive_lora.serving.admission.rate import MIN_ENDS, WARM_SAMPLES, ServiceRate


def serve(rate: ServiceRate, start: float, *, seconds: float, tokens_per_s: float) -> float:
    """Requests of 100 tokens end one after another while somebody waits. Returns when it is over."""
    interval = 100 / tokens_per_s
    rate.waiting(start, anybody=True)
    now = start
    for i in range(1, round(seconds / interval) + 1):
        now = start + i * interval
        rate.ended(now, 100)
    rate.waiting(now, anybody=False)
    return now


def test_it_is_not_known_before_enough_has_been_seen() -> None:
    rate = ServiceRate()
    now = serve(rate, 0.0, seconds=1.0, tokens_per_s=1000)
    assert rate.tokens_per_s is None
    serve(rate, now, seconds=1.0, tokens_per_s=1000)
    assert rate.tokens_per_s == pytest.approx(1000)


def test_time_in_which_nobody_waits_does_not_count() -> None:
    rate = ServiceRate()
    now = serve(rate, 0.0, seconds=2.0, tokens_per_s=1000)
    rate.ended(now + 500, 100)
    serve(rate, now + 1000, seconds=2.0, tokens_per_s=1000)
    assert rate.tokens_per_s == pytest.approx(1000)


def test_short_rushes_add_up() -> None:
    rate = ServiceRate()
    for i in range(4 * WARM_SAMPLES * MIN_ENDS):
        now = 10.0 * i
        rate.waiting(now, anybody=True)
        rate.ended(now + 0.5, 100)
        rate.waiting(now + 0.5, anybody=False)
    assert rate.tokens_per_s == pytest.approx(200)


def test_it_follows_a_change_and_is_not_led_astray_by_a_moment() -> None:
    rate = ServiceRate()
    now = serve(rate, 0.0, seconds=10, tokens_per_s=1000)
    rate.waiting(now, anybody=True)
    for _ in range(MIN_ENDS):  # a stall: eight requests in two minutes
        now += 15
        rate.ended(now, 100)
    after_a_stall = rate.tokens_per_s
    assert after_a_stall is not None
    assert after_a_stall > 800
    serve(rate, now, seconds=60, tokens_per_s=250)
    assert rate.tokens_per_s == pytest.approx(250, rel=0.02)


def test_an_engine_that_says_nothing_is_slow_and_not_stopped() -> None:
    rate = ServiceRate()
    rate.waiting(0.0, anybody=True)
    for i in range(1, 5 * MIN_ENDS):
        rate.ended(float(i), 0)
    assert rate.tokens_per_s is not None
    assert rate.tokens_per_s > 0
