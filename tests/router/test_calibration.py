from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from adaptive_lora.router.bound import binomial_tail, certified_confidence
from adaptive_lora.router.calibration import (
    MAX_DISSENTING,
    MAX_UNFAMILIAR,
    MIN_CONFIDENCE,
    UNCALIBRATED_FAMILIARITY,
    Outcomes,
    Parts,
    Scale,
    calibrate,
    dissent,
    fit_temperature,
    log_odds,
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


def outcomes(n: int, spread: float, seed: int) -> Outcomes:
    """A head that knows the centres of four blobs, and prompts from them."""
    points, labels = blobs(n, 4, spread, seed)
    centres, _ = blobs(4, 4, 0.0, 0)
    logits = points @ centres.T
    return Outcomes(logits, logits.max(axis=1), labels)


def test_familiarity_is_in_standard_deviations() -> None:
    scale = Scale(1.0, (2.0, 0.5), (0.6, 0.1))
    assert scale.familiarity(np.float32(2.0), np.float32(0.6)) == pytest.approx(0, abs=1e-6)
    assert scale.familiarity(np.float32(1.5), np.float32(0.5)) == pytest.approx(-1, abs=1e-5)


def test_in_scope_prompts_are_turned_away_at_about_the_stated_rate() -> None:
    """Over fresh points of the same classes, with a wide margin for chance."""
    calibration = calibrate([outcomes(240, 0.6, seed=0)])
    fresh = outcomes(4_000, 0.6, seed=1)
    familiarity = calibration.scales[0].familiarity(fresh.logits.max(axis=1), fresh.likeness)
    turned_away = (familiarity < calibration.min_familiarity).mean()
    assert MAX_UNFAMILIAR / 8 < turned_away < 3 * MAX_UNFAMILIAR
    assert calibration.n_held_out == 240
    assert calibration.held_out_accuracy > 0.9
    assert calibration.min_confidence <= MIN_CONFIDENCE


def test_p_value_is_uniform_over_held_out_examples() -> None:
    calibration = calibrate([outcomes(99, 0.6, seed=0)])
    p = [calibration.unfamiliarity_p(float(value)) for value in calibration.familiarities]
    assert p[0] == pytest.approx(2 / 100)
    assert p[-1] == 1
    assert calibration.unfamiliarity_p(-20) == pytest.approx(1 / 100)


def test_too_few_to_calibrate_on() -> None:
    calibration = calibrate([outcomes(7, 0.6, seed=0)])
    assert calibration.n_held_out == 0
    assert calibration.min_familiarity == UNCALIBRATED_FAMILIARITY
    assert calibration.unfamiliarity_p(0.1) == 1
    assert calibrate([outcomes(7, 0.6, seed=0)], max_error=0.05).min_confidence > 1


def test_the_error_bound_holds_in_most_draws() -> None:
    """200 draws of 300 held-out prompts: the true error above the threshold may exceed the bound in 5 %."""
    random = np.random.default_rng(0)
    broken = 0
    for _ in range(200):
        confidence = random.uniform(0.4, 1, 300)
        threshold = certified_confidence(confidence, random.random(300) < confidence, max_error=0.1)
        # Of confidences uniform on [t, 1] that are true, (1 - t) / 2 are wrong.
        broken += threshold <= 1 and (1 - threshold) / 2 > 0.1
    assert broken <= 0.05 * 200 + 6


def test_a_bound_that_cannot_be_shown_routes_nothing() -> None:
    sure = np.ones(58)
    assert certified_confidence(sure, np.ones(58, bool), max_error=0.05) > 1
    assert certified_confidence(np.ones(59), np.ones(59, bool), max_error=0.05) == 1
    assert certified_confidence(np.ones(200), np.arange(200) % 2 == 0, max_error=0.05) > 1


@pytest.mark.parametrize(("k", "n", "p"), [(0, 10, 0.1), (3, 60, 0.05), (200, 3000, 0.07), (10, 10, 0.5)])
def test_binomial_tail(k: int, n: int, p: float) -> None:
    assert binomial_tail(k, n, p) == pytest.approx(binom.cdf(k, n, p), rel=1e-6)


def test_the_first_stage_settles_only_what_it_does_not_spoil() -> None:
    """Where the first stage is wrong exactly when it is unsure, it keeps all that it is sure of."""
    last = outcomes(400, 0.3, seed=0)
    random = np.random.default_rng(1)
    spoilt = random.random(400) < 0.3
    logits = last.logits.copy()
    logits[spoilt] = random.normal(0, 0.01, (int(spoilt.sum()), 4))
    calibration = calibrate([Outcomes(logits, last.likeness, last.truth), last])
    confidence = softmax(logits / np.float32(calibration.scales[0].temperature)).max(axis=1)
    settled = confidence >= calibration.settle_confidence
    assert not (settled & spoilt & (logits.argmax(axis=1) != last.truth)).sum() > 0.01 * 400
    assert settled.sum() > 0.3 * 400


def test_nothing_is_settled_early_without_evidence() -> None:
    few = outcomes(60, 0.3, seed=0)
    assert calibrate([few, few]).settle_confidence > 1


def test_the_candidate_set_holds_the_right_agent_as_often_as_stated() -> None:
    calibration = calibrate([outcomes(400, 0.6, seed=0)], max_error=0.1)
    fresh = outcomes(4_000, 0.6, seed=1)
    shares = softmax(fresh.logits / np.float32(calibration.scales[0].temperature))
    held = shares[np.arange(4_000), fresh.truth] >= calibration.candidate_share
    assert held.mean() == pytest.approx(0.9, abs=0.04)


def test_few_rightly_routed_prompts_are_turned_away_for_a_part() -> None:
    whole = outcomes(1_000, 0.3, seed=0)
    part = outcomes(1_000, 1.2, seed=1)
    of_whole = Outcomes(part.logits, part.likeness, whole.truth)
    parts = Parts(np.ones(1_000, bool), np.arange(1_000), np.full(1_000, 5), (of_whole,))
    calibration = calibrate([whole], parts)
    assert np.isfinite(calibration.max_dissent)
    scale = calibration.scales[0]
    shares = softmax(part.logits / np.float32(scale.temperature))
    strength = dissent(
        log_odds(shares), scale.familiarity(part.logits.max(axis=1), part.likeness), parts.n_words
    )
    elsewhere = part.logits.argmax(axis=1) != whole.truth
    assert (elsewhere & (strength > calibration.max_dissent)).mean() <= MAX_DISSENTING
    assert calibrate([whole]).max_dissent == np.inf


def test_log_odds_are_of_the_first_against_the_second() -> None:
    shares = np.array([[0.6, 0.3, 0.1], [0.2, 0.4, 0.4]], np.float32)
    np.testing.assert_allclose(log_odds(shares), [np.log(2), 0], atol=1e-5)
    assert log_odds(np.ones((2, 1), np.float32)).tolist() == [0, 0]
