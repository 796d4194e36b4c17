"""Is a composition better than each of its agents alone? Measured on prompts with answers, paired.

A prompt's score is the mean log-probability per token of its answer. The composition is approved only if,
against every agent and the base, the lower confidence bound of its mean advantage is above 0. To demand it of
each (and not of the one that happens to look best on these prompts) needs no correction for having chosen
(Berger 1982).
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_lora.errors import InvalidRequest, PromptTooLong
from adaptive_lora.types import BASE, AdapterVersion, ChatMessage, Probe, Prober

MIN_PROMPTS = 20
"""Fewer say too little about the mean's spread for the bound to hold."""
N_RESAMPLES = 10_000
N_BLOCKS = 20
"""In which they are drawn: 500 times the prompts are in memory at a time."""
MAX_CONCURRENT = 16


@dataclass(frozen=True, slots=True)
class Rival:
    """An agent alone, or the base, beside the composition. In nats per token."""

    id: str
    score: float
    advantage: float
    """Mean over the prompts of composition minus rival."""
    lower_bound: float
    """Of that mean, one-sided."""


@dataclass(frozen=True, slots=True)
class CompositionReport:
    composition: str
    approved: bool
    n_prompts: int
    n_skipped: int
    """Too long for the model's context."""
    confidence: float
    score: float
    """The composition's mean, in nats per token."""
    best_rival: str
    advantage: float
    """Over the best rival."""
    lower_bound: float
    """The lowest over all rivals: above 0 the composition beats each of them."""
    rivals: tuple[Rival, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_prompts(path: Path) -> list[Probe]:
    """JSONL of {"prompt": ..., "answer": ...}. Raises InvalidRequest, naming the line."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            prompt, answer = row["prompt"], row["answer"]
        except (ValueError, KeyError, TypeError):
            prompt = answer = None
        if not all(isinstance(text, str) and text.strip() for text in (prompt, answer)):
            raise InvalidRequest(f'{path.name}:{number} is not {{"prompt": "...", "answer": "..."}}')
        rows.append(Probe(prompt, answer))
    return rows


async def evaluate_composition(
    prober: Prober,
    composition: AdapterVersion,
    agents: Sequence[AdapterVersion],
    prompts: Sequence[Probe],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> CompositionReport:
    """Compare a loaded composition with the loaded agents, and with the base, on the same prompts.

    Raises InvalidRequest for fewer than MIN_PROMPTS prompts that fit the context, and what `prober` raises.
    """
    ids: dict[str, str | None] = {composition.id: composition.id}
    ids |= {agent.id: agent.id for agent in agents} | {BASE: None}
    places = asyncio.Semaphore(MAX_CONCURRENT)

    async def score(prompt: Probe) -> list[float] | None:
        async with places:
            try:
                return [await _score(prober, prompt, adapter_id) for adapter_id in ids.values()]
            except PromptTooLong:
                return None

    rows = await asyncio.gather(*(score(prompt) for prompt in prompts))
    scores = np.array([row for row in rows if row is not None], np.float64)
    if len(scores) < MIN_PROMPTS:
        raise InvalidRequest(
            f"{len(scores)} prompts can be compared; at least {MIN_PROMPTS} are needed to tell a better "
            "composition from a lucky one"
        )
    rivals = [
        _rival(rival_id, scores[:, 0], scores[:, column], confidence, seed)
        for column, rival_id in enumerate(ids)
        if column > 0
    ]
    best = max(rivals, key=lambda rival: rival.score)
    lower_bound = min(rival.lower_bound for rival in rivals)
    return CompositionReport(
        composition=composition.id,
        approved=lower_bound > 0,
        n_prompts=len(scores),
        n_skipped=len(prompts) - len(scores),
        confidence=confidence,
        score=float(scores[:, 0].mean()),
        best_rival=best.id,
        advantage=best.advantage,
        lower_bound=lower_bound,
        rivals=tuple(rivals),
    )


async def _score(prober: Prober, prompt: Probe, adapter_id: str | None) -> float:
    question = (ChatMessage("user", prompt.prompt),)
    logprobs = await prober.answer_logprobs(question, prompt.answer, adapter_id)
    return float(np.mean(logprobs))


def _rival(
    rival_id: str, ours: NDArray[np.float64], theirs: NDArray[np.float64], confidence: float, seed: int
) -> Rival:
    differences = ours - theirs
    return Rival(
        id=rival_id,
        score=float(theirs.mean()),
        advantage=float(differences.mean()),
        lower_bound=lower_bound_of_mean(differences, confidence, seed=seed),
    )


def lower_bound_of_mean(values: NDArray[np.float64], confidence: float, *, seed: int = 0) -> float:
    """A bound that the true mean exceeds with probability `confidence`: the bootstrap-t (Efron and Tibshirani
    1993, chapter 12.5), which other than the plain bootstrap allows for skew and for few values."""
    n = len(values)
    mean, stderr = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(n)
    if stderr == 0:
        return mean
    random = np.random.default_rng(seed)
    pivots: list[NDArray[np.float64]] = []
    for _ in range(N_BLOCKS):
        drawn = values[random.integers(n, size=(N_RESAMPLES // N_BLOCKS, n))]
        shifts, spreads = drawn.mean(axis=1) - mean, drawn.std(axis=1, ddof=1) / math.sqrt(n)
        # Equal values say that the mean may be anywhere on their side.
        equal = np.copysign(np.inf, shifts)
        pivots.append(np.divide(shifts, spreads, out=equal, where=spreads > 0))
    bound = mean - float(np.quantile(np.concatenate(pivots), confidence, method="higher")) * stderr
    return max(bound, float(values.min()))
