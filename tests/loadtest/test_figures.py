"""Percentiles, goodput, errors and objectives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.errors import InvalidRequest
from adaptive_lora.loadtest.client import Outcome
from adaptive_lora.loadtest.figures import (
    Objective,
    Objectives,
    by_agent,
    figures,
    parse_objective,
    percentile,
)
from adaptive_lora.loadtest.step import LoadConfig, Sent, measured

TIMES = st.floats(0, 100)
OUTCOMES = st.builds(
    Outcome,
    agent=st.sampled_from(["code", "law"]),
    at_s=TIMES,
    lag_s=st.just(0.0),
    end_s=TIMES,
    ttft_s=TIMES,
    itl_s=st.none() | TIMES,
    n_tokens=st.integers(1, 500),
    answered_by=st.just("code"),
    error=st.none() | st.sampled_from(["overloaded", "timeout"]),
)
OBJECTIVES = Objectives((Objective("ttft", 99, 0.5), Objective("e2e", 95, 2.0)), 0.05)


def answer(at_s: float = 0.0, *, end_s: float = 1.0, ttft_s: float = 0.1, **more: object) -> Outcome:
    fields = {"agent": "code", "lag_s": 0.0, "itl_s": 0.01, "n_tokens": 10, "answered_by": "code"} | more
    return Outcome(at_s=at_s, end_s=end_s, ttft_s=ttft_s, **fields)  # type: ignore[arg-type]


@given(st.lists(TIMES, min_size=1).map(sorted), st.floats(0.1, 99.9))
def test_a_percentile_is_numpys_nearest_rank(values: list[float], p: float) -> None:
    found = percentile(values, p)
    assert found == np.percentile(values, p, method="inverted_cdf")
    assert sum(value <= found for value in values) >= len(values) * p / 100 - 1e-6


def test_the_percentile_of_nothing() -> None:
    assert math.isnan(percentile([], 50))


@given(st.lists(OUTCOMES), st.floats(0.1, 100))
def test_every_request_counts_once(outcomes: list[Outcome], seconds: float) -> None:
    found = figures(outcomes, seconds, OBJECTIVES)
    assert found.n == len(outcomes) == found.n_answered + sum(found.errors.values())
    assert found.n_good <= found.n_answered
    assert found.goodput == found.n_good / seconds
    assert found.n_good == sum(
        o.error is None and (o.ttft_s or 0) <= 0.5 and o.end_s <= 2.0 for o in outcomes
    )
    parts = by_agent(outcomes, seconds, OBJECTIVES)
    assert sum(part.n for part in parts.values()) == found.n
    assert sum(part.n_good for part in parts.values()) == found.n_good
    assert [part.n for part in parts.values()] == sorted((p.n for p in parts.values()), reverse=True)


def test_an_error_is_neither_fast_nor_slow() -> None:
    refused = answer(end_s=0.001, error="overloaded")
    found = figures([answer(end_s=1.5), refused], 1.0, OBJECTIVES)
    assert found.latencies["e2e"] == [1.5]
    assert found.error_share == 0.5
    assert found.document()["errors"] == {"overloaded": 1}


def test_objectives_hold_at_their_limits_and_break_above() -> None:
    at_limit = [answer(end_s=2.0, ttft_s=0.5) for _ in range(95)]
    slow = [answer(end_s=2.5) for _ in range(5)]
    assert figures(at_limit + slow, 1.0, OBJECTIVES).broken(OBJECTIVES) == []
    assert figures(at_limit + slow, 1.0, OBJECTIVES).n_good == 95
    (broken,) = figures(at_limit + 2 * slow, 1.0, OBJECTIVES).broken(OBJECTIVES)
    assert broken == "e2e p95 2.5 s > 2 s"


def test_too_many_errors_break_them() -> None:
    answers = [answer() for _ in range(95)]
    errors = [answer(error="rate_limited") for _ in range(5)]
    assert figures(answers + errors, 1.0, OBJECTIVES).broken(OBJECTIVES) == []
    (broken,) = figures(answers + 2 * errors, 1.0, OBJECTIVES).broken(OBJECTIVES)
    assert broken == "errors 9.52% > 5%"


def test_errors_alone_break_them_even_if_all_are_allowed() -> None:
    anything = Objectives((), 1.0)
    assert figures([answer(error="timeout")], 1.0, anything).broken(anything) == ["no answer at all"]


@given(
    st.sampled_from(["ttft", "itl", "e2e"]),
    st.integers(1, 99),
    st.integers(1, 100_000).map(lambda n: n / 1000),
)
def test_objectives_are_written_as_they_are_read(name: str, p: int, limit_s: float) -> None:
    objective = parse_objective(f"{name}:p{p}={limit_s:g}")
    assert objective == Objective(name, float(p), float(f"{limit_s:g}"))  # type: ignore[arg-type]
    assert parse_objective(str(objective)) == objective


@pytest.mark.parametrize(
    "text",
    ["", "e2e", "e2e:p95", "e2e:p0=1", "e2e:p100=1", "e2e:p95=0", "e2e:p95=-1", "e2e:p95=nan", "tpot:p95=1",
     "e2e:p95=2s", "e2e:95=2", "e2e:p95=1e9"],
)  # fmt: skip
def test_other_objectives_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="e2e:p95=2"):
        parse_objective(text)


CONFIG = LoadConfig(OBJECTIVES, seconds=10.0, warmup_s=5.0)


def test_the_warm_up_is_not_measured() -> None:
    slow = [answer(at_s=i / 10, end_s=50.0) for i in range(50)]
    fast = [answer(at_s=5 + i / 10) for i in range(100)]
    step = measured(Sent(10.0, slow + fast, 15.0, cpu_share=0.1), CONFIG)
    assert step.overall.n == 100
    assert step.held
    assert step.overall.goodput == 10.0
    assert step.achieved == 9.1  # the answers to the last second's requests come after the window


def test_no_request_at_all_proves_nothing() -> None:
    assert measured(Sent(0.01, [], 15.0, cpu_share=0.0), CONFIG).broken == ["no answer at all"]


def test_a_steady_state_without_a_warm_up_is_no_growing_queue() -> None:
    config = LoadConfig(Objectives((), 0.05), seconds=10.0, warmup_s=0.0)
    outcomes = [answer(at_s=i / 100, end_s=2.0) for i in range(1000)]
    assert measured(Sent(100.0, outcomes, 10.0, cpu_share=0.1), config).held


def test_a_late_generator_says_so() -> None:
    late = [answer(at_s=5 + i / 10, lag_s=0.2 if i % 10 == 0 else 0.0) for i in range(100)]
    assert measured(Sent(10.0, late, 15.0, cpu_share=0.1), CONFIG).generator_bound
    on_time = [answer(at_s=5 + i / 10, lag_s=0.002) for i in range(100)]
    assert not measured(Sent(10.0, on_time, 15.0, cpu_share=0.1), CONFIG).generator_bound
    assert measured(Sent(10.0, on_time, 15.0, cpu_share=0.99), CONFIG).generator_bound


def test_a_rate_that_was_given_up_does_not_hold() -> None:
    outcomes = [answer(at_s=i / 100) for i in range(400)]
    step = measured(Sent(100.0, outcomes, 4.0, cpu_share=0.1, overloaded=True), CONFIG)
    assert step.broken == ["2048 requests unanswered"]
    assert step.overall.seconds == 4.0
