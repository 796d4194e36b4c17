"""A threshold whose error is proven on held-out prompts: learn-then-test (Angelopoulos et al. 2021)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from adaptive_lora.router.head import FloatArray

RISK_DELTA = 0.05
"""The probability, over draws of the held-out prompts, with which the stated error bound may not hold."""


def certified_confidence(
    confidence: FloatArray, right: NDArray[np.bool_], max_error: float, *, delta: float = RISK_DELTA
) -> float:
    """The lowest threshold on `confidence` whose error is proven to be at most `max_error`; inf if none is.

    Thresholds are tested from the most careful one down, each by the binomial tail, until one fails (fixed
    sequence testing): the true error at the result exceeds `max_error` with probability `delta` at most.
    """
    order = np.argsort(-confidence, kind="stable")
    n_wrong = np.cumsum(~right[order])
    # Without a single error so many are needed before anything can be proven.
    fewest = math.ceil(math.log(delta) / math.log1p(-max_error))
    proven = math.inf
    for n in np.unique(np.linspace(fewest, len(order), 200).astype(int)) if len(order) >= fewest else ():
        if binomial_tail(int(n_wrong[n - 1]), int(n), max_error) > delta:
            break
        proven = float(confidence[order[n - 1]])
    return proven


def binomial_tail(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Binomial(n, p), 0 < p < 1."""
    logs = [
        math.lgamma(n + 1)
        - math.lgamma(i + 1)
        - math.lgamma(n - i + 1)
        + i * math.log(p)
        + (n - i) * math.log1p(-p)
        for i in range(k + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, logs)))
