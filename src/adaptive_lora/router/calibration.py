"""Temperature and thresholds, from scores of examples that the scoring head has not seen.

Examples of one agent often come from few phrasings. If of two near-copies one is held out and the other
learnt from, the held-out score is too good; so near-copies share a fold. Holding out more than that (whole
clusters of an agent's examples) was tried on CLINC150 and is too careful: it turned away a fifth of the
stated share, and let half of what is out of scope pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptive_lora.router.head import FloatArray, IntArray, fit_dual, softmax

N_FOLDS = 5
N_NEAREST = 3
NEAR_COPY = 0.8
"""Kernel similarity from which two examples count as one phrasing."""
MAX_TURNED_AWAY = 0.02
"""Share of in-scope prompts that each of the two thresholds may turn away, as estimated on held-out
examples."""
MIN_CONFIDENCE = 0.5
"""The calibrated threshold never exceeds it: beyond, the agent is more likely right than wrong."""
LEAST_FAMILIARITY = 0.05
"""The calibrated threshold is never lower: this little in common is nothing in common."""
UNCALIBRATED_FAMILIARITY = 0.3
"""Where too few examples leave nothing to calibrate on."""
MIN_HELD_OUT = 8

_TEMPERATURES = np.geomspace(0.02, 5, 120)


@dataclass(frozen=True, slots=True)
class Calibration:
    temperature: float
    """Logits are divided by it (Guo et al. 2017)."""
    min_confidence: float
    """Of the best candidate's calibrated probability."""
    min_familiarity: float
    familiarities: FloatArray
    """Of held-out in-scope examples, ascending: the null distribution of `unfamiliarity_p`."""
    n_held_out: int
    held_out_accuracy: float
    """Top-1 over held-out examples, without abstention; nan if none."""

    def unfamiliarity_p(self, familiarity: float) -> float:
        """Conformal p-value of being in scope: the share of held-out examples that are no more familiar."""
        n_below = int(np.searchsorted(self.familiarities, familiarity, side="right"))
        return (n_below + 1) / (len(self.familiarities) + 1)


def familiarity(kernel: FloatArray, labels: IntArray, n_classes: int) -> FloatArray:
    """Mean similarity to the nearest three examples of each class.

    kernel: float32[prompts, examples]; returns float32[prompts, n_classes]. Classes without examples get -1.
    """
    result = np.full((len(kernel), n_classes), -1, np.float32)
    for label in range(n_classes):
        own = kernel[:, labels == label]
        n = min(N_NEAREST, own.shape[1])
        if n:
            result[:, label] = np.partition(own, own.shape[1] - n, axis=1)[:, -n:].mean(axis=1)
    return result


def calibrate(kernel: FloatArray, labels: IntArray, n_classes: int, *, seed: int) -> Calibration:
    """Cross-fit on the examples' kernel matrix; set temperature and thresholds. Deterministic by `seed`."""
    logits, familiar, truth = [], [], []
    for train, held in grouped_folds(kernel, labels, seed=seed):
        cross = kernel[np.ix_(held, train)]
        coefficients = fit_dual(kernel[np.ix_(train, train)], labels[train], n_classes)
        logits.append(cross @ coefficients)
        familiar.append(familiarity(cross, labels[train], n_classes))
        truth.append(labels[held])
    if sum(map(len, truth)) < MIN_HELD_OUT:
        return Calibration(
            1.0, MIN_CONFIDENCE, UNCALIBRATED_FAMILIARITY, np.zeros(0, np.float32), 0, float("nan")
        )
    all_logits, all_truth = np.concatenate(logits), np.concatenate(truth)
    temperature = fit_temperature(all_logits, all_truth)
    probabilities = softmax(all_logits / np.float32(temperature))
    best = probabilities.argmax(axis=1)
    rows = np.arange(len(best))
    own = np.sort(np.concatenate(familiar)[rows, best])
    right = best == all_truth
    return Calibration(
        temperature=temperature,
        min_confidence=min(MIN_CONFIDENCE, _low_quantile(np.sort(probabilities[rows, best]))),
        min_familiarity=max(LEAST_FAMILIARITY, _low_quantile(own)),
        familiarities=own,
        n_held_out=len(best),
        held_out_accuracy=float(right.mean()),
    )


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


def grouped_folds(
    kernel: FloatArray, labels: IntArray, *, seed: int
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
        own = kernel[np.ix_(members, members)]
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


def _low_quantile(ascending: FloatArray) -> float:
    """The value below which at most MAX_TURNED_AWAY of new in-scope values are expected to fall."""
    rank = int(np.floor(MAX_TURNED_AWAY * (len(ascending) + 1)))
    # With fewer than 49 values no quantile that low exists; the smallest one seen is the best estimate.
    return float(ascending[max(0, rank - 1)])
