"""Does the adapter do anything, and does it do its trade better than the base?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from adaptive_lora.adapters.effect import MAX_PROBES, MIN_DIFFERENCE, check_effect, measure_effect
from adaptive_lora.errors import NoEffect, PromptTooLong, WorseThanBase
from adaptive_lora.types import AdapterVersion, ChatMessage, Probe, Prompt


def adapter(*probes: Probe, examples: tuple[str, ...] = ("write code", "write more code")) -> AdapterVersion:
    return AdapterVersion("code", "3f9c2a000001", Path("code"), 8, "writes code", examples, 1_000, probes)


class Scale:
    """Gives every token of an answer the same log-probability: the adapter's of that prompt, or the
    base's."""

    def __init__(self, ours: Mapping[str, float], base: float = -2.0) -> None:
        self.ours = ours
        self.base = base
        self.asked: list[tuple[str, str, str | None]] = []

    async def answer_logprobs(
        self, prompt: Prompt, answer: str, adapter_id: str | None = None
    ) -> tuple[float, ...]:
        assert isinstance(prompt, tuple)
        (turn,) = prompt
        assert turn == ChatMessage("user", turn.content)
        if turn.content == "too long":
            raise PromptTooLong("it is")
        self.asked.append((turn.content, answer, adapter_id))
        value = self.base if adapter_id is None else self.ours.get(turn.content, self.base)
        return (value,) * len(answer.split())


async def test_probes_say_how_much_better_it_is() -> None:
    version = adapter(Probe("a", "one two"), Probe("b", "three"))
    report = await measure_effect(version, Scale({"a": -1.0, "b": -0.5}))
    assert (report.n_texts, report.n_probes) == (2, 2)
    assert report.advantage == pytest.approx(1.25)
    assert report.advantage_stderr == pytest.approx(0.25)
    assert report.difference == pytest.approx(1.25)
    check_effect(version, report)


async def test_without_probes_examples_show_that_it_does_something_and_no_more() -> None:
    version = adapter()
    scale = Scale({"write code": -9.0})
    report = await measure_effect(version, scale)
    assert report.advantage is None
    assert report.difference == pytest.approx(3.5)
    assert ("write code", "write code", version.id) in scale.asked
    check_effect(version, report)


async def test_an_adapter_that_changes_nothing_is_refused() -> None:
    for version in (adapter(), adapter(Probe("a", "one"))):
        report = await measure_effect(version, Scale({"a": -2.0 + MIN_DIFFERENCE / 2}))
        with pytest.raises(NoEffect, match=version.id):
            check_effect(version, report)


async def test_an_adapter_that_loses_to_the_base_on_its_own_probes_is_refused() -> None:
    version = adapter(Probe("a", "one"), Probe("b", "two"))
    report = await measure_effect(version, Scale({"a": -1.0, "b": -3.5}))
    with pytest.raises(WorseThanBase, match=r"-0\.250 nats"):
        check_effect(version, report)


async def test_numbers_that_are_none_do_not_pass() -> None:
    version = adapter(Probe("a", "one"))
    report = await measure_effect(version, Scale({"a": math.nan}))
    with pytest.raises(NoEffect):
        check_effect(version, report)


async def test_what_does_not_fit_is_left_out() -> None:
    version = adapter(Probe("too long", "one"), Probe("a", "one"))
    assert (await measure_effect(version, Scale({"a": -1.0}))).n_texts == 1
    nothing = adapter(Probe("too long", "one"))
    report = await measure_effect(nothing, Scale({}))
    assert (report.n_texts, report.advantage) == (0, None)
    check_effect(nothing, report)


async def test_many_probes_are_read_in_part_and_over_the_whole_list() -> None:
    scale = Scale({})
    await measure_effect(adapter(*(Probe(str(i), "x") for i in range(64))), scale)
    asked = sorted({int(prompt) for prompt, _, _ in scale.asked})
    assert len(asked) == MAX_PROBES
    assert (asked[0], asked[-1]) == (0, 60)
