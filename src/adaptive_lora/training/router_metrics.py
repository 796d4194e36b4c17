"""What the router is judged by. Every array has one entry per prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]

N_BINS = 15


def macro_f1(truth: Sequence[str], predicted: Sequence[str]) -> float:
    """Mean over the labels of `truth` of 2 TP / (2 TP + FP + FN)."""
    true, guess = np.array(truth), np.array(predicted)
    scores = []
    for label in np.unique(true):
        hits = ((true == label) & (guess == label)).sum()
        scores.append(2 * hits / ((true == label).sum() + (guess == label).sum()))
    return float(np.mean(scores))


def expected_calibration_error(confidence: Floats, right: Bools, n_bins: int = N_BINS) -> float:
    """Weighted mean of |accuracy - confidence| over bins of equal width (Naeini et al. 2015)."""
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    return float(
        sum(
            abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean()
            for b in np.unique(bins)
        )
    )


def auroc(in_scope: Floats, out_of_scope: Floats) -> float:
    """The probability that a prompt in scope scores higher than one out of scope; ties count half."""
    ascending = np.sort(out_of_scope)
    below = np.searchsorted(ascending, in_scope, side="left")
    at_most = np.searchsorted(ascending, in_scope, side="right")
    return float((below + at_most).mean() / 2 / len(ascending))
