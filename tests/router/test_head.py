from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from adaptive_lora.router.head import add_class, fit_dual, fit_head, softmax


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("l2", [0.05, 1.0])
def test_is_the_logistic_regression_of_scikit_learn(n_classes: int, l2: float) -> None:
    random = np.random.default_rng(0)
    centres = random.normal(size=(n_classes, 12))
    labels = np.arange(160) % n_classes
    points = (centres[labels] + random.normal(size=(160, 12))).astype(np.float32)
    fitted = softmax(points @ points.T @ fit_dual(points @ points.T, labels, n_classes, l2))
    # With two classes the library fits one logit where we fit two: twice the penalty for the same odds.
    strength = (2 if n_classes == 2 else 1) / l2
    theirs = LogisticRegression(C=strength, fit_intercept=False, max_iter=5000, tol=1e-8).fit(points, labels)
    np.testing.assert_allclose(fitted, theirs.predict_proba(points), atol=5e-3)


def test_primal_and_dual_give_the_same_head() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    points = (random.normal(size=(3, 12))[labels] + random.normal(size=(60, 12))).astype(np.float32)
    dual = points.T @ fit_dual(points @ points.T, labels, 3)
    assert points.shape[0] > points.shape[1]  # in the primal, that is
    np.testing.assert_allclose(
        softmax(points @ fit_head(points, labels, 3)), softmax(points @ dual), atol=5e-3
    )


def test_with_more_features_than_examples() -> None:
    points = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)
    labels = np.array([0, 0, 1, 1, 2, 2])
    weights = fit_head(points, labels, 3)
    assert weights.shape == (40, 3)
    np.testing.assert_array_equal((points @ weights).argmax(axis=1), labels)


@pytest.mark.parametrize("n_rivals", [3, 5])
def test_learning_one_more_class_is_almost_fitting_again(n_rivals: int) -> None:
    """Also where only the rivals' examples are looked at, not those of all classes."""
    random = np.random.default_rng(0)
    labels = np.arange(180) % 6
    points = (2 * random.normal(size=(6, 10))[labels] + random.normal(size=(180, 10))).astype(np.float32)
    old = labels < 5
    before = fit_head(points[old], labels[old], 5)
    nearest = np.argsort(-softmax(points[labels == 5] @ before).mean(axis=0))[:n_rivals]
    rivals = np.sort(nearest)
    seen = np.isin(labels, [*rivals, 5])
    after = softmax(points @ add_class(before, points[seen], labels[seen], rivals))
    again = softmax(points @ fit_head(points, labels, 6))
    assert np.abs(after - again).mean() < (0.01 if n_rivals == 5 else 0.03)
    assert (after.argmax(axis=1) == again.argmax(axis=1)).mean() > 0.97


def test_the_first_class_of_all() -> None:
    points = np.eye(3, dtype=np.float32)
    nobody = np.zeros(0, np.int64)
    weights = add_class(np.zeros((3, 0), np.float32), points, np.zeros(3, np.int64), nobody)
    assert weights.shape == (3, 1)


def test_one_class_and_none() -> None:
    assert fit_dual(np.eye(3, dtype=np.float32), np.zeros(3, np.int64), 1).shape == (3, 1)
    assert fit_dual(np.zeros((0, 0), np.float32), np.zeros(0, np.int64), 0).shape == (0, 0)


def test_softmax_does_not_overflow() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0]], np.float32)), [[1, 0]])
