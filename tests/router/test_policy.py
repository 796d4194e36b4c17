from __future__ import annotations

import numpy as np
import pytest

from adaptive_lora.router.calibration import Calibration, Scale
from adaptive_lora.router.policy import Dissent, Scores, decide

CALIBRATION = Calibration(
    scales=(Scale(1.0, (0.0, 1.0), (0.0, 1.0)),),
    settle_confidence=np.inf,
    settle_familiarity=np.inf,
    min_confidence=0.5,
    min_familiarity=-1.5,
    max_dissent=5.0,
    candidate_share=0.25,
    familiarities=tuple(np.linspace(-2, 2, 99)),
    max_error=None,
    n_held_out=99,
    held_out_accuracy=1.0,
)


def scores(probabilities: list[float], familiarity: float, dissent: Dissent | None = None) -> Scores:
    return Scores(
        ("a", "b", "c"),
        np.array([probabilities], np.float32),
        np.array([familiarity], np.float32),
        (dissent,),
        (0,),
    )


def test_routes_to_the_most_probable() -> None:
    verdict = decide(scores([0.1, 0.7, 0.2], 0.0), 0, CALIBRATION)
    assert (verdict.decision.agent, verdict.decision.reason) == ("b", "routed")
    assert verdict.decision.confidence == pytest.approx(0.7)
    assert verdict.decision.scores == pytest.approx({"a": 0.1, "b": 0.7, "c": 0.2})
    assert verdict.because is None
    assert verdict.decision.doubt is None
    assert verdict.decision.candidates == ("b",)


def test_abstains_where_unsure() -> None:
    verdict = decide(scores([0.4, 0.3, 0.3], 1.0), 0, CALIBRATION)
    assert (verdict.decision.agent, verdict.decision.reason) == ("base", "abstained")
    assert verdict.decision.confidence == pytest.approx(0.6)
    assert verdict.because is not None
    assert "unsure" in verdict.because


def test_abstains_where_unfamiliar_however_sure() -> None:
    verdict = decide(scores([1.0, 0.0, 0.0], -3.0), 0, CALIBRATION)
    assert (verdict.decision.agent, verdict.decision.reason) == ("base", "abstained")
    assert verdict.decision.confidence == pytest.approx(0.99)
    assert verdict.because is not None
    assert "unlike 'a'" in verdict.because


def test_the_candidate_set_holds_every_agent_that_is_probable_enough() -> None:
    assert decide(scores([0.3, 0.1, 0.6], 0.0), 0, CALIBRATION).decision.candidates == ("c", "a")
    unsure = decide(scores([0.4, 0.35, 0.25], 0.0), 0, CALIBRATION).decision
    assert (unsure.doubt, unsure.candidates) == ("unsure", ("a", "b", "c"))
    strange = decide(scores([1.0, 0.0, 0.0], -3.0), 0, CALIBRATION).decision
    assert (strange.doubt, strange.candidates) == ("unfamiliar", ())


def test_abstains_where_a_part_is_for_somebody_else() -> None:
    loud, quiet = Dissent("2+2?", "a", 6.0), Dissent("2+2?", "a", 4.0)
    verdict = decide(scores([0.1, 0.8, 0.1], 0.0, loud), 0, CALIBRATION)
    assert (verdict.decision.agent, verdict.decision.doubt) == ("base", "parts_disagree")
    assert verdict.because is not None
    assert "'2+2?' alone for 'a'" in verdict.because
    assert decide(scores([0.1, 0.8, 0.1], 0.0, quiet), 0, CALIBRATION).decision.agent == "b"


def test_a_provisional_agent_is_scored_and_not_routed_to() -> None:
    verdict = decide(scores([0.1, 0.8, 0.1], 0.0), 0, CALIBRATION, {"b": "3 usable examples, 5 are needed"})
    assert (verdict.decision.agent, verdict.decision.doubt) == ("base", "provisional")
    assert verdict.decision.candidates == ("b",)
    assert verdict.because == "'b' is provisional: 3 usable examples, 5 are needed"
    assert decide(scores([0.8, 0.1, 0.1], 0.0), 0, CALIBRATION, {"b": "few"}).decision.agent == "a"
