from __future__ import annotations

import numpy as np

from adaptive_lora.router.folds import grouped_folds
from adaptive_lora.router.head import FloatArray


def points_on_the_sphere(n: int) -> FloatArray:
    points = np.random.default_rng(0).normal(size=(n, 24))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def test_folds_hold_out_everything_once_and_keep_near_copies_together() -> None:
    originals = points_on_the_sphere(30)
    points = np.repeat(originals, 3, axis=0)  # three copies of each of thirty phrasings
    phrasing = np.repeat(np.arange(30), 3)
    labels = phrasing % 2
    held_out: list[int] = []
    for train, held in grouped_folds(points, labels, seed=0):
        assert set(phrasing[train]).isdisjoint(phrasing[held])
        assert set(labels[train]) == {0, 1}
        held_out += list(held)
    assert sorted(held_out) == list(range(90))


def test_folds_of_a_class_that_is_one_phrasing() -> None:
    """Nothing to keep together then: it is split all the same."""
    points = np.ones((20, 1), np.float32)
    folds = list(grouped_folds(points, np.zeros(20, np.int64), seed=0))
    assert [len(held) for _, held in folds] == [4] * 5


def test_folds_are_drawn_by_the_seed() -> None:
    points, labels = points_on_the_sphere(60), np.arange(60) % 3
    first, again, other = (
        [held.tolist() for _, held in grouped_folds(points, labels, seed=n)] for n in (0, 0, 1)
    )
    assert first == again
    assert first != other
