"""One of the router's readings of a prompt: its features, and the head over them.

The first stage sees n-grams and the first half of the encoder, the second n-grams and the whole of it.
Without an encoder there is one stage, n-grams alone. What the first stage settles costs half as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from adaptive_lora.router.encoder import Reading
from adaptive_lora.router.head import FloatArray, IntArray, add_class, fit_head, softmax

StageName = Literal["ngrams", "early", "late"]

NGRAM_SHARE: dict[StageName, float] = {"ngrams": 1.0, "early": 0.25, "late": 0.25}
"""Of the similarity of two prompts; the rest is the encoder's cosine. Chosen on CLINC150's validation split,
flat: with few examples 0.2 is better by 0.2 points than 0.3, with 100 an agent 0.3 than 0.2 by 0.1."""
N_NEAREST = 3
N_RIVALS = 16
"""Classes that are fitted again when one is added; at most so many that the new class is confused with."""
N_OF_RIVAL = 64
"""Examples of each that are looked at."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Features are [encoder's vector, n-grams], scaled so that their dot product is the similarity."""

    name: StageName
    features: FloatArray
    """float32[n examples, n_features], in the order of `labels`."""
    weights: FloatArray
    """float32[n_features, n_classes]"""

    def likeness(self, row: FloatArray, members: slice) -> float:
        """Mean cosine to the nearest three of the examples `members`."""
        return float(nearest_mean(self.features[members] @ row))

    def with_class(self, rows: FloatArray, called: FloatArray, labels: IntArray) -> Stage:
        """The stage that has also learnt a class from `rows` and from what it is called; `labels` of the
        examples so far."""
        n_classes = self.weights.shape[1]
        new = np.concatenate([rows, called])
        mistaken = softmax(new @ self.weights).mean(axis=0) if n_classes else np.zeros(0, np.float32)
        rivals = np.sort(np.argsort(-mistaken)[:N_RIVALS])
        looked_at = [np.flatnonzero(labels == rival)[:N_OF_RIVAL] for rival in rivals]
        index = np.concatenate(looked_at) if looked_at else np.zeros(0, np.int64)
        weights = add_class(
            self.weights,
            np.concatenate([self.features[index], new]),
            np.concatenate([labels[index], np.full(len(new), n_classes)]),
            rivals,
        )
        return Stage(self.name, np.concatenate([self.features, rows]), weights)

    def without_class(self, column: int, labels: IntArray) -> Stage:
        """The stage without one class and its examples. The others stay as they are."""
        return Stage(self.name, self.features[labels != column], np.delete(self.weights, column, axis=1))


def features_of(name: StageName, ngrams: FloatArray, vectors: FloatArray | None) -> FloatArray:
    """float32[n, n_features] from n-grams float32[n, N_BUCKETS] and encoder's vectors float32[n, n_dims]."""
    if vectors is None:
        return ngrams
    share = NGRAM_SHARE[name]
    return np.concatenate([np.float32((1 - share) ** 0.5) * vectors, np.float32(share**0.5) * ngrams], axis=1)


def vector_of(name: StageName, reading: Reading | None) -> FloatArray | None:
    """What the encoder contributes to a stage."""
    if reading is None or name == "ngrams":
        return None
    return reading.early() if name == "early" else reading.late()


def nearest_mean(similarities: FloatArray) -> np.float32:
    """Mean of the largest three; -1 if there is none."""
    n = min(N_NEAREST, len(similarities))
    return np.partition(similarities, -n)[-n:].mean() if n else np.float32(-1)


def fit_stage(
    name: StageName, features: FloatArray, labels: IntArray, names: FloatArray, n_classes: int
) -> Stage:
    """`names`: features of what the agents are called, one per class; each counts as one more example."""
    weights = fit_head(
        np.concatenate([features, names]), np.concatenate([labels, np.arange(n_classes)]), n_classes
    )
    return Stage(name, features, weights)
