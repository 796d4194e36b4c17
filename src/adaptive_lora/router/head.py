"""Multinomial logistic regression on a few hundred to a few thousand examples, in the dual, with numpy alone.

The minimiser of  sum_i CE(f(x_i), y_i) + l2/2 |f|^2  is f(x) = sum_i k(x, x_i) a_i (representer theorem), so
fitting needs only the kernel matrix of the examples and not the 4,480 features. Its Hessian is bounded by a
fixed matrix (Boehning 1992), which is inverted once; the steps are accelerated (Nesterov). No learning rate,
no randomness.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

L2 = 0.1
"""Of 0.03 and 0.1, within 0.2 points of each other on CLINC150's validation split."""

_MAX_STEPS = 300
_TOLERANCE = 1e-4


def fit_dual(kernel: FloatArray, labels: IntArray, n_classes: int, l2: float = L2) -> FloatArray:
    """Coefficients float32[n, n_classes] such that `kernel @ coefficients` are the examples' logits.

    kernel: float32[n, n], positive semi-definite. labels: int64[n], 0 .. n_classes - 1. Stops when no
    residual of the optimality condition exceeds 0.0001.
    Memory grows with n^2, time with n^3.
    """
    n = len(labels)
    if n == 0:
        return np.zeros((0, n_classes), np.float32)
    target = np.eye(n_classes, dtype=np.float32)[labels]
    # The Hessian of the cross entropy in the logits is at most I/2.
    step = np.linalg.inv(kernel / 2 + np.float32(l2) * np.eye(n, dtype=np.float32)).astype(np.float32)
    current: FloatArray = np.zeros((n, n_classes), np.float32)
    ahead = current
    momentum = 1.0
    for _ in range(_MAX_STEPS):
        residual = softmax(kernel @ ahead) - target + np.float32(l2) * ahead
        if np.abs(residual).max() < _TOLERANCE:
            break
        previous, current = current, ahead - step @ residual
        momentum, last = (1 + np.sqrt(1 + 4 * momentum**2)) / 2, momentum
        ahead = current + np.float32((last - 1) / momentum) * (current - previous)
    return ahead


def softmax(logits: FloatArray) -> FloatArray:
    """Along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]
