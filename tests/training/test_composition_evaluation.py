"""When a composition may be proposed: only if it beats every agent, and the base, with confidence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.errors import InvalidRequest, PromptTooLong, UnknownAdapter
from adaptive_lora.training import composition_evaluation
from adaptive_lora.training.composition_evaluation import (
    evaluate_composition,
    lower_bound_of_mean,
    read_prompts,
)
from adaptive_lora.types import AdapterVersion, Probe, Prompt

PROMPTS = [Probe(f"prompt {i}", "an answer") for i in range(60)]


def version(name: str) -> AdapterVersion:
    return AdapterVersion(name, "0123456789ab", Path(name), 8, "", (), 1)


BOTH, CODE, REASONING = version("composition"), version("code"), version("reasoning")


class Scores:
    """A prober whose answers are likelier by a given amount for each adapter, with noise that is the prompt's
    own and noise that is the adapter's."""

    def __init__(self, noise: float = 0.1, **advantage: float) -> None:
        self._advantage = advantage
        self._noise = noise

    async def answer_logprobs(
        self, prompt: Prompt, answer: str, adapter_id: str | None = None
    ) -> tuple[float, ...]:
        text = prompt if isinstance(prompt, str) else prompt[0].content
        if len(text) > 1_000:
            raise PromptTooLong("too long")
        name = (adapter_id or "base").partition("@")[0]
        number = int(text.split()[1])
        shared = np.random.default_rng(number).normal(-3, 2)
        own = np.random.default_rng([1, number, len(name), ord(name[0])]).normal(0, self._noise)
        return (shared + own + self._advantage[name],) * 3


async def test_better_than_each_is_approved() -> None:
    prober = Scores(composition=0.3, code=0.1, reasoning=0.0, base=-1.0)
    report = await evaluate_composition(prober, BOTH, [CODE, REASONING], PROMPTS)
    assert report.approved
    assert report.best_rival == CODE.id
    assert report.n_prompts == 60
    assert 0 < report.lower_bound < report.advantage == pytest.approx(0.2, abs=0.06)
    assert [rival.id for rival in report.rivals] == [CODE.id, REASONING.id, "base"]
    assert json.loads(json.dumps(report.as_dict()))["rivals"][2]["id"] == "base"


@pytest.mark.parametrize(
    "advantage",
    [
        {"composition": 0.3, "code": 0.5, "reasoning": 0.0, "base": -1.0},  # one agent is better
        {"composition": 0.3, "code": 0.3, "reasoning": 0.0, "base": -1.0},  # as good
        {"composition": 0.3, "code": 0.0, "reasoning": 0.0, "base": 0.6},  # the base is
    ],
)
async def test_not_better_than_all_is_not_approved(advantage: dict[str, float]) -> None:
    report = await evaluate_composition(Scores(**advantage), BOTH, [CODE, REASONING], PROMPTS)
    assert not report.approved
    assert report.lower_bound <= 0


async def test_a_lead_within_the_noise_is_not_approved() -> None:
    prober = Scores(noise=2.0, composition=0.1, code=0.0, reasoning=0.0, base=0.0)
    report = await evaluate_composition(prober, BOTH, [CODE, REASONING], PROMPTS)
    assert not report.approved


async def test_what_does_not_fit_is_left_out_and_too_few_are_refused() -> None:
    prober = Scores(composition=0.3, code=0.1, reasoning=0.0, base=-1.0)
    long = Probe("prompt 1 " + "x" * 1_000, "an answer")
    report = await evaluate_composition(prober, BOTH, [CODE], [*PROMPTS[:20], long])
    assert (report.n_prompts, report.n_skipped) == (20, 1)
    with pytest.raises(InvalidRequest, match="19 prompts can be compared"):
        await evaluate_composition(prober, BOTH, [CODE], [*PROMPTS[:19], long])


async def test_an_engine_can_be_asked() -> None:
    """The fake one finds every answer as likely with one adapter as with the other, but for chance."""
    engine = FakeEngine()
    await engine.start()
    with pytest.raises(UnknownAdapter):
        await evaluate_composition(engine, BOTH, [CODE], PROMPTS)
    for each in (BOTH, CODE):
        await engine.load(each)
    report = await evaluate_composition(engine, BOTH, [CODE], PROMPTS)
    assert report.rivals[1].lower_bound > 0  # the base is handicapped there
    again = await evaluate_composition(engine, BOTH, [CODE], PROMPTS)
    assert report == again
    await engine.stop()


def test_the_bound_holds_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """600 draws of 30 skewed values each: a 95 % bound is above the true mean in about 5 % of them."""
    monkeypatch.setattr(composition_evaluation, "N_RESAMPLES", 1_000)
    random = np.random.default_rng(0)
    wrong = sum(lower_bound_of_mean(random.exponential(1.0, 30), 0.95) > 1.0 for _ in range(600))
    assert 0.02 <= wrong / 600 <= 0.08


def test_equal_values_have_no_spread() -> None:
    assert lower_bound_of_mean(np.full(20, 0.5), 0.95) == 0.5
    nearly = np.full(20, 0.5)
    nearly[0] = 0.4
    assert 0.4 <= lower_bound_of_mean(nearly, 0.95) < nearly.mean()


def test_prompts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n\n{"prompt": "c", "answer": "d", "label": "code"}\n')
    assert read_prompts(path) == [Probe("a", "b"), Probe("c", "d")]


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "3", '{"prompt": "a"}', '{"prompt": "a", "answer": " "}', '{"prompt": 1, "answer": "b"}'],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n' + line + "\n")
    with pytest.raises(InvalidRequest, match=r"prompts\.jsonl:2"):
        read_prompts(path)
