"""Does the adapter do anything, and does it do its own trade better than the base? Asked of the engine that
serves.

An adapter can load "OK" and have no effect: wrong module names, zero weights, an engine that ignores it. So
the engine itself is asked for the log-probabilities of given texts, with the adapter and without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adaptive_lora.errors import NoEffect, PromptTooLong, WorseThanBase
from adaptive_lora.types import AdapterVersion, ChatMessage, Probe, Prober

MAX_PROBES = 16
"""Read of a manifest; each costs two short prefills."""
MIN_DIFFERENCE = 0.01
"""Nats per token, mean of the absolute differences. Rounding in bf16 stays below it, training does not."""


@dataclass(frozen=True, slots=True)
class EffectReport:
    """What was measured on one adapter. Log-probabilities are per token, in nats."""

    n_texts: int
    difference: float
    """Mean absolute difference between adapter and base."""
    n_probes: int
    """Texts among them that are answers, so that better and worse have a meaning."""
    advantage: float | None
    """Mean over the probes of adapter minus base; None without probes."""
    advantage_stderr: float | None
    """Its standard error; None with fewer than two probes."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def measure_effect(adapter: AdapterVersion, prober: Prober) -> EffectReport:
    """Compare the loaded `adapter` with the base on its own probes, or without any on its examples.

    An example has no answer: there the prompt's own repetition is scored, which shows a difference as well.
    Texts that do not fit the model's context are left out. Raises what `prober` raises.
    """
    probes = _spread(adapter.probes) or _spread([Probe(text, text) for text in adapter.examples])
    differences: list[float] = []
    advantages: list[float] = []
    for probe in probes:
        prompt = (ChatMessage("user", probe.prompt),)
        try:
            ours = await prober.answer_logprobs(prompt, probe.answer, adapter.id)
            base = await prober.answer_logprobs(prompt, probe.answer)
        except PromptTooLong:
            continue
        pairs = list(zip(ours, base, strict=True))
        differences.append(sum(abs(a - b) for a, b in pairs) / len(pairs))
        advantages.append(sum(a - b for a, b in pairs) / len(pairs))
    n_texts = len(differences)
    judged = advantages if adapter.probes else []
    mean = sum(judged) / len(judged) if judged else None
    return EffectReport(
        n_texts=n_texts,
        difference=sum(differences) / n_texts if n_texts else 0.0,
        n_probes=len(judged),
        advantage=mean,
        advantage_stderr=_stderr(judged, mean),
    )


def check_effect(adapter: AdapterVersion, report: EffectReport) -> None:
    """Raise NoEffect or WorseThanBase if the report says so. Without probes the second cannot be said,
    without any text neither."""
    # "not >=" and not "<": what is no number passes neither.
    if report.n_texts and not report.difference >= MIN_DIFFERENCE:
        raise NoEffect(
            f"{adapter.id} changes the base's log-probabilities by {report.difference:.2g} nats a token on "
            f"its own {'probes' if report.n_probes else 'examples'}, which is nothing: check its training, "
            "its target modules and lora_alpha"
        )
    if report.advantage is not None and not report.advantage >= 0:
        raise WorseThanBase(
            f"{adapter.id} finds the answers of its own {report.n_probes} probes less likely than the base "
            f"does ({report.advantage:+.3f} nats a token): train it further, or correct the probes in its "
            "manifest"
        )


def _spread(probes: Sequence[Probe]) -> list[Probe]:
    """At most MAX_PROBES of them, evenly over the list: neighbours are often alike."""
    n = min(len(probes), MAX_PROBES)
    return [probes[i * len(probes) // n] for i in range(n)]


def _stderr(values: Sequence[float], mean: float | None) -> float | None:
    if mean is None or len(values) < 2:
        return None
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
