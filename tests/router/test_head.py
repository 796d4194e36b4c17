from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from adaptive_lora.router.head import fit_dual, softmax


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


def test_one_class_and_none() -> None:
    assert fit_dual(np.eye(3, dtype=np.float32), np.zeros(3, np.int64), 1).shape == (3, 1)
    assert fit_dual(np.zeros((0, 0), np.float32), np.zeros(0, np.int64), 0).shape == (0, 0)


def test_softmax_does_not_overflow() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0]], np.float32)), [[1, 0]])
