from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from adaptive_lora.training.router_metrics import auroc, expected_calibration_error, macro_f1


def test_macro_f1_is_the_librarys() -> None:
    random = np.random.default_rng(0)
    truth = [f"agent-{i}" for i in random.integers(0, 5, 300)]
    predicted = [t if random.random() < 0.7 else f"agent-{random.integers(0, 5)}" for t in truth]
    assert macro_f1(truth, predicted) == pytest.approx(f1_score(truth, predicted, average="macro"))


def test_auroc_is_the_librarys() -> None:
    random = np.random.default_rng(0)
    inside, outside = random.integers(3, 9, 200).astype(float), random.integers(0, 6, 150).astype(float)
    labels = np.r_[np.ones(200), np.zeros(150)]
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(labels, np.r_[inside, outside]))
    assert auroc(np.ones(3), np.zeros(2)) == 1


def test_calibration_error() -> None:
    assert expected_calibration_error(np.full(100, 0.8), np.arange(100) < 80) == pytest.approx(0, abs=1e-9)
    assert expected_calibration_error(np.full(100, 0.8), np.arange(100) < 50) == pytest.approx(0.3)
    two = np.r_[np.full(50, 0.95), np.full(50, 0.55)]
    assert expected_calibration_error(two, np.r_[np.ones(50, bool), np.zeros(50, bool)]) == pytest.approx(0.3)
    assert expected_calibration_error(np.ones(4), np.ones(4, bool)) == 0
