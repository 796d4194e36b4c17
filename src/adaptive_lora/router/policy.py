"""From scores to a decision. Scores are facts about a prompt; what to do with them is decided here alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adaptive_lora.router.calibration import Calibration
from adaptive_lora.router.head import FloatArray
from adaptive_lora.types import BASE, Doubt, RouteDecision


@dataclass(frozen=True, slots=True)
class Dissent:
    """A later part of a prompt that, read alone, is for another agent than the whole."""

    part: str
    agent: str
    strength: float
    """See `calibration.dissent`."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Of some prompts for some candidates."""

    candidates: tuple[str, ...]
    probabilities: FloatArray
    """float32[prompts, candidates], calibrated by temperature; rows sum to 1."""
    familiarity: FloatArray
    """float32[prompts]: how much at home the prompt is with its most probable candidate, in standard
    deviations from the usual prompt in scope (`calibration.Scale.familiarity`)."""
    dissents: tuple[Dissent | None, ...]
    """Per prompt."""
    stages: tuple[int, ...]
    """Per prompt, the stage that settled it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision about one prompt, with what it was based on."""

    decision: RouteDecision
    best: int
    """Column of the most probable candidate."""
    because: str | None
    """Why the base answers, in words; None if the agent does."""


def decide(
    scores: Scores, row: int, calibration: Calibration, provisional: Mapping[str, str] | None = None
) -> Verdict:
    """The most probable candidate; or the base model if the prompt is unlike its examples, the choice unsure,
    a part of the prompt for somebody else, or the candidate `provisional` (agent -> why).

    The confidence of an agent is its calibrated probability. The base model's is 1 - p: for an unfamiliar
    prompt p is the conformal p-value of being in scope, else the best candidate's probability.
    """
    shares = scores.probabilities[row]
    order = np.argsort(-shares, kind="stable")
    best = int(order[0])
    agent, confidence = scores.candidates[best], float(shares[best])
    familiar = float(scores.familiarity[row])
    named = dict(zip(scores.candidates, map(float, shares), strict=True))
    if familiar < calibration.min_familiarity:
        because = (
            f"unlike {agent!r}'s examples: familiarity {familiar:.2f}, at least "
            f"{calibration.min_familiarity:.2f} needed"
        )
        strange = 1 - calibration.unfamiliarity_p(familiar)
        return Verdict(RouteDecision(BASE, strange, "abstained", named, doubt="unfamiliar"), best, because)
    candidates = tuple(
        scores.candidates[i] for i in order if i == best or shares[i] >= calibration.candidate_share
    )

    def abstain(doubt: Doubt, because: str) -> Verdict:
        decision = RouteDecision(BASE, 1 - confidence, "abstained", named, doubt=doubt, candidates=candidates)
        return Verdict(decision, best, because)

    if confidence < calibration.min_confidence:
        return abstain(
            "unsure",
            f"unsure: {agent!r} has {confidence:.2f}, at least {calibration.min_confidence:.2f} needed",
        )
    dissent = scores.dissents[row]
    if dissent is not None and dissent.strength > calibration.max_dissent:
        return abstain(
            "parts_disagree",
            f"its parts disagree: the whole is for {agent!r}, {dissent.part!r} alone for {dissent.agent!r}; "
            f"dissent {dissent.strength:.2f}, at most {calibration.max_dissent:.2f} tolerated",
        )
    if provisional and agent in provisional:
        return abstain("provisional", f"{agent!r} is provisional: {provisional[agent]}")
    return Verdict(RouteDecision(agent, confidence, "routed", named, candidates=candidates), best, None)
