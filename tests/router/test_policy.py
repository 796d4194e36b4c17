from __future__ import annotations

import numpy as np
import pytest

from adaptive_lora.router.calibration import Calibration, Scale
from adaptive_lora.router.policy import Scores, decide

CALIBRATION = Calibration(
    scales=(Scale(1.0, (0.0, 1.0), (0.0, 1.0)),),
    settle_confidence=np.inf,
    settle_familiarity=np.inf,
    min_confidence=0.5,
    min_familiarity=-1.5,
    familiarities=np.linspace(-2, 2, 99, dtype=np.float32),
    n_held_out=99,
    held_out_accuracy=1.0,
)


def scores(probabilities: list[float], familiarity: float) -> Scores:
    return Scores(
        ("a", "b", "c"), np.array([probabilities], np.float32), np.array([familiarity], np.float32), (0,)
    )


def test_routes_to_the_most_probable() -> None:
    verdict = decide(scores([0.1, 0.7, 0.2], 0.0), 0, CALIBRATION)
    assert (verdict.decision.agent, verdict.decision.reason) == ("b", "routed")
    assert verdict.decision.confidence == pytest.approx(0.7)
    assert verdict.decision.scores == pytest.approx({"a": 0.1, "b": 0.7, "c": 0.2})
    assert verdict.doubt is None


def test_abstains_where_unsure() -> None:
    verdict = decide(scores([0.4, 0.3, 0.3], 1.0), 0, CALIBRATION)
    assert (verdict.decision.agent, verdict.decision.reason) == ("base", "abstained")
    assert verdict.decision.confidence == pytest.approx(0.6)
    assert verdict.doubt is not None
    assert "unsure" in verdict.doubt


def test_abstains_where_unfamiliar_however_sure() -> None:
    verdict = decide(scores([1.0, 0.0, 0.0], -3.0), 0, CALIBRATION)
    assert (verdict.decision.agent, verdict.decision.reason) == ("base", "abstained")
    assert verdict.decision.confidence == pytest.approx(0.99)
    assert verdict.doubt is not None
    assert "unlike 'a'" in verdict.doubt
