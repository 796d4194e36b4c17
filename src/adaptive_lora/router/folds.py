"""Folds of the examples to hold out in turn.

Examples of one agent often come from few phrasings. If of two near-copies one is held out and the other
learnt from, the held-out score is too good; so near-copies share a fold. Holding out more than that (whole
clusters of an agent's examples) was tried on CLINC150 and is too careful: it turned away a fifth of the
stated share, and let half of what is out of scope pass.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from adaptive_lora.router.head import FloatArray, IntArray

N_FOLDS = 5
NEAR_COPY = 0.8
"""Similarity from which two examples count as one phrasing."""


def grouped_folds(
    features: FloatArray, labels: IntArray, *, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(train, held out) index pairs. Near-copies are never apart; every class keeps something to learn from.

    Where one phrasing makes up more than half of a class, likeness has to be closer to count: 0.9, then 0.95,
    and at last every example stands for itself.
    """
    fold = np.full(len(labels), -1, np.int64)
    random = np.random.default_rng(seed)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            continue  # nothing can be held out: it stays in every train part
        own = features[members] @ features[members].T
        groups = np.arange(len(members))
        for closeness in (NEAR_COPY, 0.9, 0.95):
            linked = _single_links(own, closeness)
            if linked.max() >= 1 and np.bincount(linked).max() <= len(members) / 2:
                groups = linked
                break
        n_folds = min(N_FOLDS, int(groups.max()) + 1)
        sizes = np.zeros(n_folds, np.int64)
        order = random.permutation(groups.max() + 1)
        for group in sorted(order, key=lambda g: -int((groups == g).sum())):
            smallest = int(sizes.argmin())
            fold[members[groups == group]] = smallest
            sizes[smallest] += int((groups == group).sum())
    for index in range(N_FOLDS):
        held = np.flatnonzero(fold == index)
        if len(held):
            yield np.flatnonzero(fold != index), held


def _single_links(kernel: FloatArray, closeness: float) -> NDArray[np.int64]:
    """Connected components of "at least this similar", numbered from 0."""
    groups = np.full(len(kernel), -1, np.int64)
    n_groups = 0
    for start in range(len(kernel)):
        if groups[start] >= 0:
            continue
        frontier = np.array([start])
        while len(frontier):
            groups[frontier] = n_groups
            reached = (kernel[frontier] >= closeness).any(axis=0)
            frontier = np.flatnonzero(reached & (groups < 0))
        n_groups += 1
    return groups
