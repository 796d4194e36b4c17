"""Is a quantised base as good as the original, for this fleet? Both engines answer the fleet's own questions.

A question is a probe of an adapter's manifest (with its answer), or an example, answered by what the original
says greedily. The measure is how much less likely the quantised engine finds the answers: that moves before
words do. Answers of the original's own favour the original, so they overstate the loss.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from adaptive_lora.engine.base import Engine
from adaptive_lora.errors import InvalidRequest
from adaptive_lora.types import BASE, AdapterVersion, ChatMessage, Prompt, SamplingConfig


@dataclass(frozen=True, slots=True)
class Question:
    agent: str
    adapter_id: str | None
    prompt: Prompt
    answer: str | None = None
    """None: whatever the original answers."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one engine made of the questions, one entry each."""

    answers: tuple[str, ...]
    """Its own, greedy."""
    logprobs: tuple[tuple[float, ...], ...]
    """Of each token of the reference answers."""


@dataclass(frozen=True, slots=True)
class AgentLoss:
    """How an agent fares on the quantised base; perplexities are per token of the reference answers."""

    agent: str
    n_questions: int
    n_tokens: int
    perplexity: float
    quantised_perplexity: float
    loss: float
    """Nats per token, original minus quantised: the logarithm of the perplexities' ratio, worse above 0."""
    equal_answers: float
    """Share of greedy answers that are the same to the letter."""


def questions_of(versions: Sequence[AdapterVersion], n: int) -> list[Question]:
    """`n` questions for each agent, and `n` for the base, spread evenly over all agents' examples."""
    found = []
    for version in versions:
        probes = [Question(version.name, version.id, _turn(p.prompt), p.answer) for p in version.probes]
        asked = {question.prompt for question in probes}
        examples = [turn for text in version.examples if (turn := _turn(text)) not in asked]
        found += probes[:n]
        found += [Question(version.name, version.id, turn) for turn in _spread(examples, n - len(probes))]
    every = [text for version in versions for text in version.examples]
    return found + [Question(BASE, None, _turn(text)) for text in _spread(every, n)]


async def read_original(
    engine: Engine, questions: Sequence[Question], max_tokens: int
) -> tuple[list[Question], Reading]:
    """The questions with every answer filled in, and what the original makes of them.

    Left out are questions that do not fit into its context, and those that it answers with nothing.
    """
    lengths = await asyncio.gather(*(engine.count_tokens(question.prompt) for question in questions))
    room = engine.max_model_len - max_tokens
    fitting = [q for q, length in zip(questions, lengths, strict=True) if length < room]
    answers = await _greedy(engine, fitting, max_tokens)
    pairs = [
        (replace(question, answer=question.answer or answer), answer)
        for question, answer in zip(fitting, answers, strict=True)
        if question.answer or answer
    ]
    if not pairs:
        raise InvalidRequest("there is nothing to compare: the adapters' manifests have no usable examples")
    answered = [question for question, _ in pairs]
    return answered, Reading(tuple(answer for _, answer in pairs), await _score(engine, answered))


async def read(engine: Engine, questions: Sequence[Question], max_tokens: int) -> Reading:
    """What another engine makes of questions that `read_original` returned. Raises UnknownAdapter,
    PromptTooLong."""
    answers = await _greedy(engine, questions, max_tokens)
    return Reading(tuple(answers), await _score(engine, questions))


def compare(questions: Sequence[Question], original: Reading, quantised: Reading) -> list[AgentLoss]:
    """One row per agent, in the order of the questions."""
    rows = []
    for agent in dict.fromkeys(question.agent for question in questions):
        mine = [i for i, question in enumerate(questions) if question.agent == agent]
        before = [value for i in mine for value in original.logprobs[i]]
        after = [value for i in mine for value in quantised.logprobs[i]]
        mean_before, mean_after = sum(before) / len(before), sum(after) / len(after)
        rows.append(
            AgentLoss(
                agent=agent,
                n_questions=len(mine),
                n_tokens=len(before),
                perplexity=math.exp(-mean_before),
                quantised_perplexity=math.exp(-mean_after),
                loss=mean_before - mean_after,
                equal_answers=sum(original.answers[i] == quantised.answers[i] for i in mine) / len(mine),
            )
        )
    return rows


async def _greedy(engine: Engine, questions: Sequence[Question], max_tokens: int) -> list[str]:
    completions = await engine.generate_batch(
        [question.prompt for question in questions],
        SamplingConfig(max_tokens=max_tokens),
        [question.adapter_id for question in questions],
    )
    return [completion.text for completion in completions]


async def _score(engine: Engine, questions: Sequence[Question]) -> tuple[tuple[float, ...], ...]:
    """Log-probabilities of each question's answer, which all have."""
    return tuple(
        await asyncio.gather(
            *(engine.answer_logprobs(q.prompt, q.answer or "", q.adapter_id) for q in questions)
        )
    )


def _turn(text: str) -> Prompt:
    return (ChatMessage("user", text),)


def _spread(items: Sequence[Any], n: int) -> list[Any]:
    """`n` of the items at most, at even distances."""
    n = max(0, min(n, len(items)))
    return [items[i * len(items) // n] for i in range(n)]
