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
    mean, accuracy, share = reliability(confidence, right, n_bins)
    return float((np.abs(accuracy - mean) * share).sum())


def auroc(in_scope: Floats, out_of_scope: Floats) -> float:
    """The probability that a prompt in scope scores higher than one out of scope; ties count half."""
    ascending = np.sort(out_of_scope)
    below = np.searchsorted(ascending, in_scope, side="left")
    at_most = np.searchsorted(ascending, in_scope, side="right")
    return float((below + at_most).mean() / 2 / len(ascending))


def reliability(confidence: Floats, right: Bools, n_bins: int = N_BINS) -> tuple[Floats, Floats, Floats]:
    """Mean confidence, accuracy and share of the prompts, per bin of equal width that holds any."""
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    used = np.unique(bins)
    mean = np.array([confidence[bins == b].mean() for b in used])
    accuracy = np.array([right[bins == b].mean() for b in used])
    share = np.array([(bins == b).mean() for b in used])
    return mean, accuracy, share


def risk_coverage(confidence: Floats, right: Bools, n_points: int = 200) -> tuple[Floats, Floats]:
    """Shares of the prompts, surest first, and the share of errors among them."""
    order = np.argsort(-confidence, kind="stable")
    errors = np.cumsum(~right[order])
    counts = np.unique(np.linspace(1, len(order), min(n_points, len(order))).astype(int))
    return counts / max(1, len(order)), errors[counts - 1] / counts
