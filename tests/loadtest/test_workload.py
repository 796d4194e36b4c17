"""Agents by Zipf's law, lengths, prompts; and the moments at which they are asked for."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.errors import InvalidRequest
from adaptive_lora.loadtest.open_loop import poisson
from adaptive_lora.loadtest.workload import (
    Lengths,
    Workload,
    choose_prompts,
    parse_lengths,
    zipf_weights,
)

AGENTS = {name: [f"{name} {i}" for i in range(5)] for name in ("code", "law", "poems")}


@given(st.integers(1, 200), st.floats(0, 10))
def test_zipf_weights_are_shares_whose_ratio_is_that_of_their_ranks(n: int, exponent: float) -> None:
    weights = zipf_weights(n, exponent)
    assert math.isclose(sum(weights), 1.0)
    for rank, weight in enumerate(weights, 1):
        assert math.isclose(weight * rank**exponent, weights[0])


def test_the_first_agent_is_asked_most() -> None:
    n = 6_000
    workload = Workload(AGENTS, Lengths(1, 1), zipf=1.0, seed=0)
    counts = Counter(workload.next().agent for _ in range(n))
    for (_, count), share in zip(sorted(counts.items()), zipf_weights(3, 1.0), strict=True):
        assert abs(count - n * share) < 5 * math.sqrt(n * share * (1 - share))


@given(st.integers(), st.integers(1, 50), st.integers(0, 50), st.floats(0, 3))
def test_the_same_seed_asks_the_same(seed: int, low: int, more: int, zipf: float) -> None:
    one, other = (Workload(AGENTS, Lengths(low, low + more), zipf=zipf, seed=seed) for _ in range(2))
    asks = [one.next() for _ in range(20)]
    assert asks == [other.next() for _ in range(20)]
    assert len({ask.prompt for ask in asks}) == len(asks)
    for ask in asks:
        assert low <= ask.max_tokens <= low + more
        assert ask.prompt.rpartition(" [")[0] in AGENTS[ask.agent]


def test_repeated_prompts_are_those_of_the_file() -> None:
    workload = Workload(AGENTS, Lengths(1, 1), zipf=0.0, seed=0, repeat=True)
    assert {workload.next().prompt for _ in range(300)} == {p for ps in AGENTS.values() for p in ps}


@given(st.integers(1, 1_000_000), st.integers(0, 1_000))
def test_lengths_are_a_number_or_two(low: int, more: int) -> None:
    high = min(low + more, 1_000_000)
    assert parse_lengths(f"{low}-{high}") == Lengths(low, high)
    assert parse_lengths(f"{low}") == Lengths(low, low)


@pytest.mark.parametrize("text", ["", "0", "-5", "9-3", "5-", "5-9-12", "1e3", "1000001", "five", "5 - 9"])
def test_other_lengths_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="16-256"):
        parse_lengths(text)


@given(st.floats(0.1, 200), st.floats(0.1, 20), st.integers())
def test_arrivals_are_in_order_and_in_the_window(rate: float, seconds: float, seed: int) -> None:
    moments = list(poisson(rate, seconds, random.Random(seed)))
    assert moments == sorted(moments)
    assert all(0 <= at_s < seconds for at_s in moments)
    assert moments == list(poisson(rate, seconds, random.Random(seed)))


@pytest.mark.parametrize("rate", [0.5, 3.0, 50.0])
def test_arrivals_are_a_poisson_process(rate: float) -> None:
    """Gaps of mean and standard deviation 1/rate, of which the share exp(-1) is longer than that."""
    n = 20_000
    moments = list(poisson(rate, n / rate, random.Random(1)))
    assert abs(len(moments) - n) < 5 * math.sqrt(n)
    gaps = [(b - a) * rate for a, b in itertools.pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert abs(mean - 1) < 5 / math.sqrt(n)
    assert abs(deviation - 1) < 0.05
    assert abs(sum(gap > 1 for gap in gaps) / len(gaps) - math.exp(-1)) < 0.02


SERVED = ["auto", "base", "code", "code@prod", "code@3f9c2a", "law"]


def test_by_default_those_are_asked_that_are_served_and_have_prompts() -> None:
    assert choose_prompts(AGENTS | {"law": []}, SERVED, None) == {"code": AGENTS["code"]}


def test_the_order_is_the_callers_and_any_prompt_suits_the_router_and_the_base() -> None:
    chosen = choose_prompts(AGENTS, SERVED, ["law", "auto", "code@prod", "base"])
    every = [prompt for prompts in AGENTS.values() for prompt in prompts]
    assert list(chosen) == ["law", "auto", "code@prod", "base"]
    assert chosen == {"law": AGENTS["law"], "auto": every, "code@prod": AGENTS["code"], "base": every}


@pytest.mark.parametrize(
    ("examples", "served", "agents", "message"),
    [
        (AGENTS, SERVED, ["opera"], "does not show 'opera' to this caller; it shows auto, base, code, law$"),
        (AGENTS, [f"a{i}" for i in range(50)], ["b"], r"a0, a1, .*a19, \.\.\.$"),
        ({"code": ["x"]}, SERVED, ["code", "law"], "no prompts for 'law'"),
        ({"opera": ["x"]}, SERVED, None, "shows none of opera"),
        ({}, SERVED, ["auto"], "no prompts for 'auto'"),
    ],
)
def test_nobody_is_asked_without_prompts(
    examples: dict[str, list[str]], served: list[str], agents: list[str] | None, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        choose_prompts(examples, served, agents)
