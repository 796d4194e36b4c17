"""The knee is found, by property and in a queue whose knee is known."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.loadtest.figures import Objective, Objectives
from adaptive_lora.loadtest.search import RateSearch
from adaptive_lora.loadtest.step import LoadConfig
from tests.loadtest.queue_model import mm1_knee, mm1_percentile_s, mm1_step

RATES = st.floats(0.1, 1000)


def searched(search: RateSearch, knee: float) -> list[float]:
    """The rates that are tried on a server whose objectives hold up to `knee`."""
    tried = []
    while (rate := search.next_rate()) is not None:
        tried.append(rate)
        search.tell(rate, rate <= knee)
        assert len(tried) < 100
    return tried


@given(RATES, st.floats(0.1, 1000), st.floats(0.01, 1))
def test_a_knee_in_the_range_is_found_to_the_precision(knee: float, start: float, precision: float) -> None:
    search = RateSearch(start, 1000, precision)
    tried = searched(search, knee)
    assert len(set(tried)) == len(tried)
    assert max(tried) <= 1000
    if search.fails is None:
        assert search.holds == 1000 <= knee
    else:
        assert search.holds is not None
        assert search.holds <= knee < search.fails <= search.holds * (1 + precision)


@given(st.floats(0.1, 1000))
def test_a_server_that_holds_nothing(start: float) -> None:
    search = RateSearch(start, 1000, min_rate=0.05)
    tried = searched(search, knee=0.0)
    assert search.holds is None
    assert search.fails == min(tried) < 0.1


def test_one_rate_alone() -> None:
    for knee in (5.0, 50.0):
        assert searched(RateSearch(7.0, 7.0, min_rate=7.0), knee) == [7.0]


@pytest.mark.parametrize(("p", "limit_s"), [(95.0, 0.2), (99.0, 0.25), (50.0, 0.05)])
def test_the_knee_of_mm1_is_found_analytically(p: float, limit_s: float) -> None:
    knee = mm1_knee(40.0, p, limit_s)
    search = RateSearch(1.0, 1000.0, precision=0.001)
    while (rate := search.next_rate()) is not None:
        search.tell(rate, mm1_percentile_s(rate, 40.0, p) <= limit_s)
    assert search.holds == pytest.approx(knee, rel=0.001)


@pytest.mark.parametrize("seed", range(2))
def test_the_knee_of_mm1_is_found_in_what_it_does(seed: int) -> None:
    """With arrivals, percentiles and verdicts of the real thing; the queue alone is simulated."""
    service_rate, p, limit_s = 40.0, 95.0, 0.2
    config = LoadConfig(Objectives((Objective("e2e", p, limit_s),), 0.05), seconds=1_000.0, warmup_s=50.0)
    rng = random.Random(seed)
    search = RateSearch(1.0, 1000.0, precision=0.05)
    while (rate := search.next_rate()) is not None:
        search.tell(rate, mm1_step(rate, service_rate, config, rng).held)
    assert search.holds == pytest.approx(mm1_knee(service_rate, p, limit_s), rel=0.1)


def test_a_queue_that_grows_does_not_hold_however_patient_the_objective() -> None:
    config = LoadConfig(Objectives((Objective("e2e", 95.0, 3600.0),), 0.05), seconds=60.0, warmup_s=5.0)
    for seed in range(20):
        rng = random.Random(seed)
        assert mm1_step(20.0, 40.0, config, rng).held
        assert any("queue has grown" in text for text in mm1_step(60.0, 40.0, config, rng).broken)
