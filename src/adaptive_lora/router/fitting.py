"""What heads say about examples that they have not seen: the ground of calibration without other data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from adaptive_lora.router.calibration import Outcomes, grouped_folds
from adaptive_lora.router.head import FloatArray, IntArray
from adaptive_lora.router.stage import StageName, fit_stage

MAX_CROSS_FITTED = 4_000
"""With more examples one fold is held out instead of each in turn: its size is evidence enough."""


def cross_fit(
    features: Mapping[StageName, FloatArray], labels: IntArray, n_classes: int, *, seed: int
) -> list[Outcomes]:
    """One Outcomes per stage, over the same held-out examples.

    features: float32[n + n_classes, n_features] per stage; the last rows are what the agents are called.
    Deterministic by `seed`.
    """
    n = len(labels)
    collected: dict[StageName, list[Outcomes]] = {name: [] for name in features}
    for train, held in grouped_folds(list(features.values())[-1][:n], labels, seed=seed):
        for name, rows in features.items():
            stage = fit_stage(name, rows[train], labels[train], rows[n:], n_classes)
            ends = np.searchsorted(labels[train], np.arange(n_classes), side="right")
            logits = rows[held] @ stage.weights
            likeness = [
                stage.likeness(row, slice(int(ends[best - 1]) if best else 0, int(ends[best])))
                for row, best in zip(rows[held], logits.argmax(axis=1), strict=True)
            ]
            collected[name].append(Outcomes(logits, np.array(likeness, np.float32), labels[held]))
        if n > MAX_CROSS_FITTED:
            break
    none = Outcomes.none(n_classes)
    return [
        Outcomes(
            np.concatenate([none.logits, *(o.logits for o in parts)]),
            np.concatenate([none.likeness, *(o.likeness for o in parts)]),
            np.concatenate([none.truth, *(o.truth for o in parts)]),
        )
        for parts in collected.values()
    ]
