"""A router that learns from outcomes who answers best, among the agents that it holds possible.

Off by default (`router.learning_path`). Where a prompt is unfamiliar, or its parts disagree, or an agent is
provisional, nothing is explored and the router's decision stands.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from adaptive_lora.router.benefit import BenefitLearner, Situation, project
from adaptive_lora.router.outcomes import OutcomeLog
from adaptive_lora.router.router import Router
from adaptive_lora.telemetry.logging import request_id_var
from adaptive_lora.types import BASE, RouteDecision, Standing

_log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
"""For new rewards."""
_FINAL = ("unfamiliar", "parts_disagree", "provisional")


class _LogWorks:
    """Says once that the log of outcomes cannot be used, and once that it can again. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._works = True

    def note(self, error: OSError | None) -> None:
        with self._lock:
            is_news = self._works != (error is None)
            self._works = error is None
        if is_news and error is not None:
            _log.error("outcomes are not learnt from, the router decides alone: %s", error)
        elif is_news:
            _log.info("outcomes are learnt from again")


class LearningRouter:
    """Thread-safe."""

    def __init__(self, router: Router, folder: Path, *, seed: int = 0) -> None:
        """Replays the log in `folder`, then adds to it."""
        self._router = router
        self._outcomes = OutcomeLog(folder)
        self._learner = BenefitLearner.replay(self._outcomes.new_outcomes(), seed=seed)
        self._looked_at = time.monotonic()
        self._lock = threading.Lock()
        self._log_works = _LogWorks()
        _log.info("learning from outcomes in %s: %d so far", folder, self._learner.n_outcomes)

    @property
    def router(self) -> Router:
        """The one whose decisions it starts from."""
        return self._router

    def standing(self, agent: str) -> Standing:
        return self._router.standing(agent)

    def with_agent(self, agent: str, examples: Sequence[str], *, description: str = "") -> LearningRouter:
        """As `Router.with_agent`. What has been learnt from outcomes is shared with this one."""
        return self._over(self._router.with_agent(agent, examples, description=description))

    def without_agent(self, agent: str) -> LearningRouter:
        """As `Router.without_agent`. What has been learnt from outcomes is shared with this one."""
        return self._over(self._router.without_agent(agent))

    def _over(self, router: Router) -> LearningRouter:
        other = copy.copy(self)
        other._router = router
        return other

    def route(
        self, prompt: str, candidates: Sequence[str] | None = None, *, explain: bool = False
    ) -> RouteDecision:
        """As `Router.route`, then a draw among its candidate set, its choice and the base; reason "learned"
        where that differs from the router's choice. The draw is logged under the request's id; one that
        cannot be logged would teach nothing, and the router's choice stands."""
        self._learn()
        decision, row = self._router.consider(prompt, candidates, explain=explain)
        if row is None or decision.doubt in _FINAL:
            return decision
        possible = (agent for agent in decision.candidates if agent not in self._router.provisional)
        arms = tuple(dict.fromkeys((*possible, decision.agent, BASE)))
        situation = Situation(decision.candidates[0], decision.agent, arms, project(row))
        choice = self._learner.choose(situation)
        try:
            self._outcomes.write_choice(request_id_var.get() or uuid.uuid4().hex, choice)
        except OSError as error:
            self._log_works.note(error)
            return decision
        self._log_works.note(None)
        if explain:
            told = {"expected_reward": self._learner.expect(situation), "propensities": choice.propensities}
            decision = replace(decision, explanation={**decision.explanation, "learning": told})
        if choice.arm == decision.agent:
            return decision
        confidence = 1 - decision.confidence if choice.arm == BASE else decision.scores[choice.arm]
        return replace(decision, agent=choice.arm, confidence=confidence, reason="learned", doubt=None)

    def _learn(self) -> None:
        """Take in new rewards, now and then, by one thread."""
        if time.monotonic() - self._looked_at < LOOK_EVERY_S or not self._lock.acquire(blocking=False):
            return
        try:
            self._looked_at = time.monotonic()
            for outcome in self._outcomes.new_outcomes():
                self._learner.learn(outcome)
        except OSError as error:
            self._log_works.note(error)
        finally:
            self._lock.release()
