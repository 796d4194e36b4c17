"""Multinomial logistic regression, with numpy alone.

The minimiser of  sum_i CE(W' x_i, y_i) + l2/2 |W|^2.  With fewer examples than features it is found in
the dual, W = X' A (representer theorem), else in the primal; the two give the same head. The Hessian is taken
for a fixed matrix, which is inverted once; the steps are accelerated (Nesterov). No learning rate, no
randomness.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

L2 = 0.05
"""Of 0.025, 0.05, 0.1 and 0.2: within 0.5 points of each other on CLINC150's validation split."""

_MAX_STEPS, _FEW_STEPS = 300, 80
"""The few where a step is costly, or has to be quick; more change nothing that can be measured."""
_TOLERANCE = 5e-5
_PRIMAL_TOLERANCE = 5e-4
"""Per example of a class; less changes nothing that can be measured, and takes twice the steps."""
_DIVERGED = 10.0
"""A largest entry of the gradient that is so many times the smallest that was reached."""
_CURVATURES = (1 / 8, 1 / 2)
"""Bounds on the second derivative of the cross entropy in the logits: one that holds nearly everywhere and is
reached four times as fast, and one that always holds (Boehning 1992), should the first ever fail."""


def fit_head(features: FloatArray, labels: IntArray, n_classes: int, l2: float = L2) -> FloatArray:
    """Weights float32[n_features, n_classes] such that `features @ weights` are logits.

    features: float32[n, n_features]. labels: int64[n], 0 .. n_classes - 1. Stops when no entry of the
    gradient exceeds 0.00005; in the primal 0.0005 times the number of examples per
    class, or after 80 steps.
    """
    n, n_features = features.shape
    if n <= n_features:
        return features.T @ fit_dual(features @ features.T, labels, n_classes, l2)
    target = np.eye(n_classes, dtype=np.float32)[labels]
    gram = features.T @ features

    def gradient(weights: FloatArray) -> FloatArray:
        wrong = softmax(features @ weights) - target
        slope: FloatArray = features.T @ wrong + np.float32(l2) * weights
        return slope

    shape, tolerance = (n_features, n_classes), _PRIMAL_TOLERANCE * n / n_classes
    return _descend(gradient, gram, l2, shape, tolerance, _FEW_STEPS)


def fit_dual(kernel: FloatArray, labels: IntArray, n_classes: int, l2: float = L2) -> FloatArray:
    """Coefficients float32[n, n_classes] such that `kernel @ coefficients` are the examples' logits.

    kernel: float32[n, n], positive semi-definite. Memory grows with n^2, time with n^3.
    """
    n = len(labels)
    if n == 0:
        return np.zeros((0, n_classes), np.float32)
    target = np.eye(n_classes, dtype=np.float32)[labels]

    def residual(coefficients: FloatArray) -> FloatArray:
        return softmax(kernel @ coefficients) - target + np.float32(l2) * coefficients

    return _descend(residual, kernel, l2, (n, n_classes), _TOLERANCE)


def add_class(
    weights: FloatArray,
    features: FloatArray,
    labels: IntArray,
    rivals: IntArray,
    l2: float = L2,
) -> FloatArray:
    """Weights float32[n_features, n_classes + 1] of a head that has learnt one more class, the last.

    Only the new class and `rivals`, the old classes that it may be confused with, are fitted again, on
    `features` float32[n, n_features] of their examples, labelled 0 .. n_classes. The examples left out pull
    on the rivals' weights as they did before: at the old optimum  l2 W = X'(t - p) + pull,  so that the pull
    is known without looking at them. In the dual over the n examples, whatever the number of classes.
    """
    n_classes = weights.shape[1]
    target = np.stack([labels == column for column in (*rivals, n_classes)], axis=1).astype(np.float32)
    before = softmax(features @ weights)[:, rivals]
    was_there = (labels < n_classes).astype(np.float32)[:, None]
    pull = np.float32(l2) * weights[:, rivals] - features.T @ (was_there * (target[:, :-1] - before))
    start = np.concatenate([pull, np.zeros((len(pull), 1), np.float32)], axis=1) / np.float32(l2)
    others = np.delete(features @ weights, rivals, axis=1)
    rest = np.logaddexp.reduce(others, axis=1, keepdims=True) if others.shape[1] else None
    kernel, offset = features @ features.T, features @ start

    def residual(coefficients: FloatArray) -> FloatArray:
        logits = offset + kernel @ coefficients
        p = softmax(logits if rest is None else np.concatenate([logits, rest], axis=1))
        slope: FloatArray = p[:, : target.shape[1]] - target + np.float32(l2) * coefficients
        return slope

    coefficients = _descend(residual, kernel, l2, target.shape, _TOLERANCE, _FEW_STEPS)
    fitted = start + features.T @ coefficients
    extended: FloatArray = np.concatenate([weights, fitted[:, -1:]], axis=1).astype(np.float32)
    extended[:, rivals] = fitted[:, :-1]
    return extended


def _descend(
    gradient: Callable[[FloatArray], FloatArray],
    gram: FloatArray,
    l2: float,
    shape: tuple[int, int],
    tolerance: float,
    max_steps: int = _MAX_STEPS,
) -> FloatArray:
    """Accelerated steps from zero until no entry of the gradient exceeds `tolerance`.

    The Hessian is taken for  c gram + l2 I  with the curvature c of the cross entropy.
    """
    identity = np.eye(len(gram), dtype=np.float32)
    current: FloatArray = np.zeros(shape, np.float32)
    for curvature in _CURVATURES:
        step = np.linalg.inv(np.float32(curvature) * gram + np.float32(l2) * identity).astype(np.float32)
        current = np.zeros(shape, np.float32)
        ahead, momentum = current, 1.0
        least = last = np.inf
        for _ in range(max_steps):
            slope = gradient(ahead)
            last = float(np.abs(slope).max(initial=0))
            least = min(least, last)
            if last < tolerance:
                return current
            previous, current = current, ahead - step @ slope
            momentum, before = (1 + np.sqrt(1 + 4 * momentum**2)) / 2, momentum
            ahead = current + np.float32((before - 1) / momentum) * (current - previous)
        if last < _DIVERGED * least:
            break
    return current


def softmax(logits: FloatArray) -> FloatArray:
    """Along the last axis, which may be empty."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    return shifted / shifted.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]
