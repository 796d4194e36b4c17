from __future__ import annotations

import numpy as np
import pytest

from adaptive_lora.router.calibration import (
    MAX_TURNED_AWAY,
    MIN_CONFIDENCE,
    UNCALIBRATED_FAMILIARITY,
    calibrate,
    familiarity,
    fit_temperature,
    grouped_folds,
)
from adaptive_lora.router.head import FloatArray, softmax


def blobs(n: int, n_classes: int, spread: float, seed: int) -> tuple[FloatArray, np.ndarray]:
    """Unit vectors around one centre per class."""
    centres = np.random.default_rng(9).normal(size=(n_classes, 24))
    random = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    points = centres[labels] + spread * random.normal(size=(n, 24))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32), labels


def test_temperature_recovers_the_scale_of_true_probabilities() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(20_000, 3)).astype(np.float32)
    labels = np.array([random.choice(3, p=row / row.sum()) for row in softmax(logits).astype(float)])
    assert fit_temperature(logits * 0.25, labels) == pytest.approx(0.25, rel=0.07)
    assert fit_temperature(logits * 4, labels) == pytest.approx(4, rel=0.07)


def test_without_a_single_error_confidence_grows_with_the_evidence_only() -> None:
    def confidence(n: int) -> float:
        labels = np.arange(n) % 2
        logits = np.eye(2, dtype=np.float32)[labels]
        return float(softmax(logits / np.float32(fit_temperature(logits, labels))).max(axis=1).mean())

    assert confidence(8) < confidence(40) < confidence(200) < 1
    assert confidence(8) == pytest.approx(0.9, abs=0.02)


def test_familiarity_is_the_mean_of_the_three_nearest_of_each_class() -> None:
    kernel = np.array([[0.9, 0.1, 0.7, 0.8, 0.5]], np.float32)
    labels = np.array([0, 0, 0, 0, 1])
    np.testing.assert_allclose(familiarity(kernel, labels, 3), [[0.8, 0.5, -1]], rtol=1e-6)


def test_in_scope_prompts_are_turned_away_at_about_the_stated_rate() -> None:
    """Over fresh points of the same classes, with a wide margin for chance."""
    points, labels = blobs(240, 4, 0.6, seed=0)
    calibration = calibrate(points @ points.T, labels, 4, seed=0)
    fresh, fresh_labels = blobs(4_000, 4, 0.6, seed=1)
    own = familiarity(fresh @ points.T, labels, 4)[np.arange(4_000), fresh_labels]
    turned_away = (own < calibration.min_familiarity).mean()
    assert MAX_TURNED_AWAY / 8 < turned_away < 3 * MAX_TURNED_AWAY
    assert calibration.n_held_out == 240
    assert calibration.held_out_accuracy > 0.9
    assert calibration.min_confidence <= MIN_CONFIDENCE


def test_p_value_is_uniform_over_held_out_examples() -> None:
    points, labels = blobs(99, 3, 0.6, seed=0)
    calibration = calibrate(points @ points.T, labels, 3, seed=0)
    p = [calibration.unfamiliarity_p(float(value)) for value in calibration.familiarities]
    assert p[0] == pytest.approx(2 / 100)
    assert p[-1] == 1
    assert calibration.unfamiliarity_p(-2) == pytest.approx(1 / 100)


@pytest.mark.parametrize("labels", [[], [0], [0, 1], [0, 0, 0, 1]])
def test_too_few_examples_to_calibrate_on(labels: list[int]) -> None:
    kernel = np.eye(len(labels), dtype=np.float32)
    calibration = calibrate(kernel, np.array(labels, np.int64), len(set(labels)), seed=0)
    assert calibration.n_held_out == 0
    assert calibration.min_familiarity == UNCALIBRATED_FAMILIARITY
    assert calibration.unfamiliarity_p(0.1) == 1


def test_folds_hold_out_everything_once_and_keep_near_copies_together() -> None:
    originals, _ = blobs(30, 30, 0.1, seed=0)
    points = np.repeat(originals, 3, axis=0)  # three copies of each of thirty phrasings
    phrasing = np.repeat(np.arange(30), 3)
    labels = phrasing % 2
    held_out: list[int] = []
    for train, held in grouped_folds(points @ points.T, labels, seed=0):
        assert set(phrasing[train]).isdisjoint(phrasing[held])
        assert set(labels[train]) == {0, 1}
        held_out += list(held)
    assert sorted(held_out) == list(range(90))


def test_folds_of_a_class_that_is_one_phrasing() -> None:
    """Nothing to keep together then: it is split all the same."""
    kernel = np.ones((20, 20), np.float32)
    folds = list(grouped_folds(kernel, np.zeros(20, np.int64), seed=0))
    assert [len(held) for _, held in folds] == [4] * 5


def test_calibration_is_deterministic_by_seed() -> None:
    points, labels = blobs(60, 3, 1.0, seed=0)
    first, again, other = (calibrate(points @ points.T, labels, 3, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.familiarities, again.familiarities)
    assert not np.array_equal(first.familiarities, other.familiarities)
