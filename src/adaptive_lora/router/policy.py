"""From scores to a decision. Scores are facts about a prompt; what to do with them is decided here alone."""

from __future__ import annotations

from dataclasses import dataclass

from adaptive_lora.router.calibration import Calibration
from adaptive_lora.router.head import FloatArray
from adaptive_lora.types import BASE, RouteDecision


@dataclass(frozen=True, slots=True)
class Scores:
    """Of some prompts for some candidates."""

    candidates: tuple[str, ...]
    probabilities: FloatArray
    """float32[prompts, candidates], calibrated by temperature; rows sum to 1."""
    familiarity: FloatArray
    """float32[prompts]: how much at home the prompt is with its most probable candidate, in standard
    deviations from the usual prompt in scope (`calibration.Scale.familiarity`)."""
    stages: tuple[int, ...]
    """Per prompt, the stage that settled it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision about one prompt, with what it was based on."""

    decision: RouteDecision
    best: int
    """Column of the most probable candidate."""
    doubt: str | None
    """Why the base answers, in words; None if the agent does."""


def decide(scores: Scores, row: int, calibration: Calibration) -> Verdict:
    """The most probable candidate, or the base model if the prompt is unlike its examples or the choice
    unsure.

    The confidence of an agent is its calibrated probability. The base model's is 1 - p: for an unfamiliar
    prompt p is the conformal p-value of being in scope, for an unsure choice the best candidate's
    probability.
    """
    best = int(scores.probabilities[row].argmax())
    confidence = float(scores.probabilities[row, best])
    familiar = float(scores.familiarity[row])
    agent = scores.candidates[best]
    shares = dict(zip(scores.candidates, map(float, scores.probabilities[row]), strict=True))
    if familiar < calibration.min_familiarity:
        doubt = (
            f"unlike {agent!r}'s examples: familiarity {familiar:.2f}, at least "
            f"{calibration.min_familiarity:.2f} needed"
        )
        return Verdict(
            RouteDecision(BASE, 1 - calibration.unfamiliarity_p(familiar), "abstained", shares), best, doubt
        )
    if confidence < calibration.min_confidence:
        doubt = f"unsure: {agent!r} has {confidence:.2f}, at least {calibration.min_confidence:.2f} needed"
        return Verdict(RouteDecision(BASE, 1 - confidence, "abstained", shares), best, doubt)
    return Verdict(RouteDecision(agent, confidence, "routed", shares), best, None)
