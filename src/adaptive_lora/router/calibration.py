"""Temperature and thresholds, from scores of prompts that the scoring heads have not seen."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptive_lora.router.bound import certified_confidence
from adaptive_lora.router.head import FloatArray, IntArray, softmax

MAX_UNFAMILIAR, MAX_UNSURE = 0.033, 0.01
"""Shares of in-scope prompts that the two thresholds may turn away, as estimated on held-out prompts. A good
part of what is out of scope is turned away only if some of what is in scope is, too."""
MIN_CONFIDENCE = 0.5
"""The calibrated threshold never exceeds it, unless an error bound asks for more: beyond, the agent is more
likely right than wrong."""
LEAST_LIKENESS = 0.06
"""This little in common with the nearest examples is nothing in common, whatever a head says,"""
NOTHING_IN_COMMON = -10.0
"""and this familiar."""
MAX_MISSED = 0.05
"""Share of prompts in scope whose candidate set may lack the right agent; `max_error` replaces it."""
MAX_DISSENTING = 0.015
"""Share of rightly routed prompts of which a part may be found to be for somebody else."""
LEAST_DISSENT = 5.0
"""A part that dissents less never counts: one of four words, as much at home as usual, at odds of 20."""
LEAST_SHARE = 1e-12
"""Probabilities below it count as it, in logarithms."""
MIN_HELD_OUT = 8
MIN_TO_SETTLE = 100
"""Held-out prompts without which nothing says when the first half of the encoder is enough."""
MAX_HARM = 0.0005
"""Share of prompts for which settling early may replace a right answer by a wrong one."""
SETTLE_FAMILIARITY = 0.35
"""Quantile of the in-scope familiarity: what is less familiar than that is always read to the end."""

_TEMPERATURES = np.geomspace(0.02, 5, 120)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What heads said about prompts that they have not seen."""

    logits: FloatArray
    """float32[n, n_classes]"""
    likeness: FloatArray
    """float32[n]: mean cosine to the three nearest examples of the best class."""
    truth: IntArray
    """int64[n]"""

    @classmethod
    def none(cls, n_classes: int) -> Outcomes:
        """Of no prompt at all."""
        return cls(np.zeros((0, n_classes), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    @classmethod
    def join(cls, outcomes: Sequence[Outcomes]) -> Outcomes:
        """Of all their prompts, in order; at least one."""
        return cls(
            np.concatenate([o.logits for o in outcomes]),
            np.concatenate([o.likeness for o in outcomes]),
            np.concatenate([o.truth for o in outcomes]),
        )


@dataclass(frozen=True, slots=True)
class Parts:
    """What heads said about the later parts of some of those prompts (`parts.later_part`)."""

    looked_at: NDArray[np.bool_]
    """bool[n]: the prompts that were looked at, whether or not they have a later part."""
    index: IntArray
    """int64[m]: which of the n prompts each part is of."""
    n_words: IntArray
    """int64[m]"""
    stages: tuple[Outcomes, ...]
    """Of m parts; `truth` is the whole prompt's."""

    @classmethod
    def none(cls, n_classes: int, n_stages: int) -> Parts:
        """Of no prompt at all."""
        empty = Outcomes.none(n_classes)
        none = np.zeros(0, np.int64)
        return cls(np.zeros(0, bool), none, none, (empty,) * n_stages)


@dataclass(frozen=True, slots=True)
class Scale:
    """How to read one stage's raw scores."""

    temperature: float
    """Logits are divided by it (Guo et al. 2017)."""
    logit: tuple[float, float]
    """Mean and standard deviation of the best logit over prompts in scope."""
    likeness: tuple[float, float]

    def familiarity(
        self, best_logit: FloatArray | np.float32, likeness: FloatArray | np.float32
    ) -> FloatArray:
        """How much at home a prompt is, in standard deviations from the usual prompt in scope: the mean of
        what the head says (its best logit, Hendrycks et al. 2022) and of the likeness to examples."""
        parts = ((best_logit, self.logit), (likeness, self.likeness))
        familiarity = np.mean([(value - mean) / deviation for value, (mean, deviation) in parts], axis=0)
        return np.where(likeness < LEAST_LIKENESS, NOTHING_IN_COMMON, familiarity)


UNCALIBRATED = Scale(1.0, (0.0, math.inf), (0.6, 0.15))
"""Where too few examples leave nothing to calibrate on: likeness alone counts."""
UNCALIBRATED_FAMILIARITY = -1.0
"""With `UNCALIBRATED`: a likeness of 0.3."""
UNCALIBRATED_SHARE = 0.05
"""With `UNCALIBRATED`: who is less probable is no candidate."""


@dataclass(frozen=True, slots=True)
class Calibration:
    scales: tuple[Scale, ...]
    """One per stage."""
    settle_confidence: float
    """With both of these the first stage's answer stands; infinite: it never does."""
    settle_familiarity: float
    min_confidence: float
    """Of the best candidate's calibrated probability."""
    min_familiarity: float
    max_dissent: float
    """Of a later part (`dissent`), beyond which the prompt goes to the base."""
    candidate_share: float
    """The calibrated probability from which an agent is in the candidate set (split conformal, Sadinle et al.
    2019)."""
    familiarities: tuple[float, ...]
    """Of held-out in-scope prompts, ascending: the null distribution of `unfamiliarity_p`."""
    max_error: float | None
    """The bound that was asked for."""
    n_held_out: int
    held_out_accuracy: float
    """Top-1 over held-out prompts, without abstention; nan if none."""

    def unfamiliarity_p(self, familiarity: float) -> float:
        """Conformal p-value of being in scope: the share of held-out prompts that are no more familiar."""
        return (bisect_right(self.familiarities, familiarity) + 1) / (len(self.familiarities) + 1)


def calibrate(
    stages: Sequence[Outcomes],
    parts: Parts | None = None,
    *,
    max_error: float | None = None,
    min_confidence: float | None = None,
    max_unfamiliar: float = MAX_UNFAMILIAR,
) -> Calibration:
    """Thresholds from what each stage said about the same held-out prompts, and about parts of them.

    A `min_confidence` that is given stands. Else, with `max_error`, it is the lowest threshold at which the
    share of wrong agents among routed prompts is at most that, with probability 1 - RISK_DELTA (`bound`);
    more than 1 where the held-out prompts cannot show it, so that nothing is routed.
    """
    truth = stages[-1].truth
    n = len(truth)
    if n < MIN_HELD_OUT:
        unproven = MIN_CONFIDENCE if max_error is None else math.inf
        return Calibration(
            scales=(UNCALIBRATED,) * len(stages),
            settle_confidence=math.inf,
            settle_familiarity=math.inf,
            min_confidence=min_confidence if min_confidence is not None else unproven,
            min_familiarity=UNCALIBRATED_FAMILIARITY,
            max_dissent=math.inf,
            candidate_share=UNCALIBRATED_SHARE,
            familiarities=(),
            max_error=max_error,
            n_held_out=0,
            held_out_accuracy=math.nan,
        )
    scales = tuple(_scale(outcomes) for outcomes in stages)
    settle_confidence = settle_familiarity = math.inf
    if len(stages) == 2 and n >= MIN_TO_SETTLE:
        settle_confidence, settle_familiarity = _settling(*map(_view, stages, scales))

    def settled(outcomes: Sequence[Outcomes]) -> _View:
        """As the stages together see it."""
        *firsts, last = map(_view, outcomes, scales)
        for first in firsts:
            early = (first.confidence >= settle_confidence) & (first.familiarity >= settle_familiarity)
            last = _View(*(np.where(early, a, b) for a, b in zip(first.arrays, last.arrays, strict=True)))
        return last

    final = settled(stages)
    ascending = np.sort(final.familiarity)
    min_familiarity = _low_quantile(ascending, max_unfamiliar)
    if min_confidence is None and max_error is not None:
        at_home = final.familiarity >= min_familiarity
        min_confidence = certified_confidence(final.confidence[at_home], final.right[at_home], max_error)
    elif min_confidence is None:
        min_confidence = min(MIN_CONFIDENCE, _low_quantile(np.sort(final.confidence), MAX_UNSURE))
    right = final.right & (final.familiarity >= min_familiarity) & (final.confidence >= min_confidence)
    return Calibration(
        scales=scales,
        settle_confidence=settle_confidence,
        settle_familiarity=settle_familiarity,
        min_confidence=min_confidence,
        min_familiarity=min_familiarity,
        max_dissent=math.inf if parts is None else _tolerated(settled(parts.stages), parts, right),
        candidate_share=_low_quantile(np.sort(final.share), MAX_MISSED if max_error is None else max_error),
        familiarities=tuple(map(float, ascending)),
        max_error=max_error,
        n_held_out=n,
        held_out_accuracy=float(final.right.mean()),
    )


@dataclass(frozen=True, slots=True)
class _View:
    """Of each held-out prompt: how sure, how familiar, and whether right."""

    confidence: FloatArray
    familiarity: FloatArray
    right: NDArray[np.bool_]
    share: FloatArray
    """The right agent's probability."""
    margin: FloatArray
    """See `log_odds`."""

    @property
    def arrays(self) -> tuple[NDArray[np.generic], ...]:
        return self.confidence, self.familiarity, self.right, self.share, self.margin


def _scale(outcomes: Outcomes) -> Scale:
    best = outcomes.logits.max(axis=1)
    logit, likeness = (
        (float(values.mean()), max(float(values.std()), 1e-3)) for values in (best, outcomes.likeness)
    )
    return Scale(fit_temperature(outcomes.logits, outcomes.truth), logit, likeness)


def _view(outcomes: Outcomes, scale: Scale) -> _View:
    shares = softmax(outcomes.logits / np.float32(scale.temperature))
    return _View(
        confidence=shares.max(axis=1),
        familiarity=scale.familiarity(outcomes.logits.max(axis=1), outcomes.likeness),
        right=outcomes.logits.argmax(axis=1) == outcomes.truth,
        share=shares[np.arange(len(shares)), outcomes.truth],
        margin=log_odds(shares),
    )


def _settling(first: _View, last: _View) -> tuple[float, float]:
    """The lowest confidence at which the first stage's answers cost at most MAX_HARM, and its familiarity."""
    min_familiarity = float(np.quantile(first.familiarity, SETTLE_FAMILIARITY))
    eligible = np.flatnonzero(first.familiarity >= min_familiarity)
    order = eligible[np.argsort(-first.confidence[eligible], kind="stable")]
    harm = np.cumsum(last.right[order] & ~first.right[order])
    n_settled = int((harm <= MAX_HARM * len(last.right)).sum())
    return (float(first.confidence[order[n_settled - 1]]) if n_settled else math.inf), min_familiarity


def dissent(
    margin: FloatArray | np.float32, familiarity: FloatArray | np.float32, n_words: IntArray | int
) -> FloatArray:
    """How strongly a part of a prompt, of `n_words` words, is for another agent than the whole.

    The logarithm of its odds for that agent against the next, how much at home it is there, and half a unit
    for each of its words up to six: fragments of honest prompts are for anybody now and then, and short.
    """
    strength: FloatArray = margin + familiarity + np.float32(0.5) * np.minimum(n_words, 6)
    return strength


def log_odds(shares: FloatArray) -> FloatArray:
    """float32[n]: of the first against the second of probabilities float32[n, n_classes]; 0 of one class."""
    if shares.shape[1] < 2:
        return np.zeros(len(shares), np.float32)
    second, first = np.partition(shares, -2, axis=1)[:, -2:].T
    odds: FloatArray = np.log(first + LEAST_SHARE) - np.log(second + LEAST_SHARE)
    return odds


def _tolerated(part: _View, parts: Parts, right: NDArray[np.bool_]) -> float:
    """The dissent that at most MAX_DISSENTING of the rightly routed prompts exceed."""
    counts = right[parts.index] & ~part.right
    descending = -np.sort(-dissent(part.margin, part.familiarity, parts.n_words)[counts])
    n_allowed = int(MAX_DISSENTING * (right & parts.looked_at).sum())
    tolerated = float(descending[n_allowed]) if n_allowed < len(descending) else LEAST_DISSENT
    return max(tolerated, LEAST_DISSENT)


def fit_temperature(logits: FloatArray, labels: IntArray) -> float:
    """The temperature that minimises the cross entropy; a grid of 120 values, 5 % apart.

    Against targets smoothed by one imagined error in n + 2 (Platt 1999): n held-out examples without a single
    error are no evidence of a certainty beyond that.
    """
    n, n_classes = logits.shape
    if n_classes < 2:
        return 1.0
    target = np.full(logits.shape, 1 / (n + 2) / (n_classes - 1), np.float32)
    target[np.arange(n), labels] = 1 - 1 / (n + 2)
    losses = [-(target * np.log(softmax(logits / np.float32(t)) + 1e-9)).sum() for t in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def _low_quantile(ascending: FloatArray, share: float) -> float:
    """The value below which at most `share` of new in-scope values are expected to fall."""
    rank = int(np.floor(share * (len(ascending) + 1)))
    # With few values no quantile that low exists; the smallest one seen is the best estimate.
    return float(ascending[max(0, rank - 1)])
