"""What heads say about prompts that they have not learnt from: the ground of calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptive_lora.router.calibration import Outcomes, Parts
from adaptive_lora.router.encoder import Encoder
from adaptive_lora.router.folds import grouped_folds
from adaptive_lora.router.head import FloatArray, IntArray
from adaptive_lora.router.parts import later_part
from adaptive_lora.router.reading import read_features
from adaptive_lora.router.stage import Stage, StageName, fit_stage

MAX_CROSS_FITTED = 4_000
"""With more examples one fold is held out instead of each in turn: its size is evidence enough."""
MAX_LOOKED_AT = 5_000
"""Prompts whose later parts are read."""

Features = Mapping[StageName, FloatArray]
"""float32[n, n_features] per stage."""


@dataclass(frozen=True, slots=True)
class LaterParts:
    """The later parts of some of n prompts."""

    looked_at: NDArray[np.bool_]
    """bool[n]: the prompts that were looked at, whether or not they have a later part."""
    index: IntArray
    """int64[m]: which prompt each part is of."""
    n_words: IntArray
    features: Features
    """m rows."""


def read_later_parts(encoder: Encoder | None, texts: Sequence[str], *, seed: int) -> LaterParts:
    """Of at most MAX_LOOKED_AT of `texts`."""
    looked_at = np.zeros(len(texts), bool)
    looked_at[np.random.default_rng(seed).permutation(len(texts))[:MAX_LOOKED_AT]] = True
    found = [(i, later_part(text)) for i, text in enumerate(texts) if looked_at[i]]
    parts = [(i, part) for i, part in found if part is not None]
    features = read_features(encoder, [part for _, part in parts])
    index, n_words = np.array([(i, len(part.split())) for i, part in parts], np.int64).reshape(-1, 2).T
    return LaterParts(looked_at, index, n_words, features)


def cross_fit(
    features: Features, labels: IntArray, n_classes: int, parts: LaterParts, *, seed: int
) -> tuple[list[Outcomes], Parts]:
    """One Outcomes per stage, over the same held-out examples, and the same of their later parts.

    features: n + n_classes rows; the last are what the agents are called. `parts` are of the n examples.
    Deterministic by `seed`.
    """
    n = len(labels)
    place = np.full(n, -1, np.int64)
    wholes: list[list[Outcomes]] = []
    tails: list[list[Outcomes]] = []
    kept: list[NDArray[np.intp]] = []
    looked_at: list[NDArray[np.bool_]] = []
    for train, held in grouped_folds(list(features.values())[-1][:n], labels, seed=seed):
        known = labels[train]
        stages = [fit_stage(name, rows[train], known, rows[n:], n_classes) for name, rows in features.items()]
        own = np.flatnonzero(np.isin(parts.index, held))
        wholes.append([judge(s, features[s.name][held], known, labels[held]) for s in stages])
        tails.append([judge(s, parts.features[s.name][own], known, labels[parts.index[own]]) for s in stages])
        place[held] = place.max(initial=-1) + 1 + np.arange(len(held))
        kept.append(own)
        looked_at.append(parts.looked_at[held])
        if n > MAX_CROSS_FITTED:
            break
    if not wholes:
        none = Outcomes.none(n_classes)
        return [none] * len(features), Parts.none(n_classes, len(features))
    order = np.concatenate(kept)
    return [Outcomes.join(of_stage) for of_stage in zip(*wholes, strict=True)], Parts(
        np.concatenate(looked_at),
        place[parts.index[order]],
        parts.n_words[order],
        tuple(Outcomes.join(of_stage) for of_stage in zip(*tails, strict=True)),
    )


def judge(stage: Stage, rows: FloatArray, labels: IntArray, truth: IntArray) -> Outcomes:
    """What `stage`, fitted on examples with ascending `labels`, says about prompts float32[n, n_features]."""
    logits = rows @ stage.weights
    likeness = [
        stage.likeness(row, slice(*np.searchsorted(labels, [best, best + 1])))
        for row, best in zip(rows, logits.argmax(axis=1) if len(rows) else (), strict=True)
    ]
    return Outcomes(logits, np.array(likeness, np.float32), truth)
