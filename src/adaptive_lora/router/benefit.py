"""Who answers best, learnt from outcomes: likeness of topic says who could, rewards say who does.

A contextual bandit beside the router. Its arms for a prompt are the calibrated candidate set, the base, and
what the router alone would do; nothing else is ever tried. Per topic (the agent that the prompt is most like)
and arm it keeps a Bayesian linear regression of the reward, and draws by Thompson sampling (Agrawal and Goyal
2013). The prior believes the router: without outcomes its choice stands nearly always. Every choice carries
the probabilities it was drawn with, so that a log of choices and rewards can be replayed, and other policies
be judged on it (`evaluate_policy`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from adaptive_lora.errors import InvalidRequest
from adaptive_lora.router.head import FloatArray

N_DIMS = 8
"""Of a prompt's features: what within a topic the reward may depend on, linearly."""
TRUST = 0.15
"""By how much the prior believes the router's choice to be better than any other arm. Rewards are 0..1."""
DOUBT = 0.05
"""Standard deviation of the prior of an arm's reward,"""
TRUST_DOUBT = 0.025
"""of that trust,"""
SLOPE = 0.02
"""and of the reward's change per unit of a feature."""
NOISE = 0.3
"""Standard deviation of a reward around its mean; that of a coin, 0.5, at most."""
N_DRAWS = 256
"""Of the arms' rewards per choice; propensities are multiples of 1 / N_DRAWS."""
FORGET_AFTER = 5_000
"""Outcomes of one arm in one topic after which old ones fade, so that a changed world is noticed."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known of a request before it is answered."""

    topic: str
    """The agent whose examples the prompt is most like."""
    routed: str
    """What the router alone would choose."""
    arms: tuple[str, ...]
    """What may be chosen; `routed` is among them."""
    features: tuple[float, ...]
    """N_DIMS numbers of about unit variance."""


@dataclass(frozen=True, slots=True)
class Choice:
    situation: Situation
    arm: str
    propensities: Mapping[str, float]
    """The probability with which each arm was drawn; sums to 1."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A choice and how it went."""

    choice: Choice
    reward: float
    """0..1"""


_PRIOR_MEAN = np.array([0.5, TRUST, *(0.0,) * N_DIMS])
_PRIOR_PRECISION = (NOISE / np.array([DOUBT, TRUST_DOUBT, *(SLOPE,) * N_DIMS])) ** 2


@dataclass(slots=True)
class _Belief:
    """N(precision^-1 moment, NOISE^2 precision^-1) over the weights of `_design`."""

    precision: NDArray[np.float64] = field(default_factory=lambda: np.diag(_PRIOR_PRECISION))
    moment: NDArray[np.float64] = field(default_factory=lambda: _PRIOR_PRECISION * _PRIOR_MEAN)
    n: int = 0

    def predict(self, x: NDArray[np.float64]) -> tuple[float, float]:
        """Mean and standard deviation of the expected reward."""
        solved = np.linalg.solve(self.precision, np.stack([x, self.moment], axis=1))
        return float(x @ solved[:, 1]), NOISE * float(np.sqrt(x @ solved[:, 0]))

    def learn(self, x: NDArray[np.float64], reward: float) -> None:
        if self.n >= FORGET_AFTER:
            keep = 1 - 1 / FORGET_AFTER
            self.precision *= keep
            self.moment *= keep
        self.precision += np.outer(x, x)
        self.moment += x * reward
        self.n += 1


class BenefitLearner:
    """Chooses among arms and learns from rewards. Thread-safe."""

    def __init__(self, *, seed: int = 0) -> None:
        self._beliefs: dict[tuple[str, str], _Belief] = {}
        self._random = np.random.default_rng(seed)
        self._lock = threading.Lock()
        self.n_outcomes = 0

    def choose(self, situation: Situation) -> Choice:
        """Draw an arm with the probability that it is the best one, as far as is known."""
        with self._lock:
            moments = [self._predict(situation, arm) for arm in situation.arms]
            means, deviations = np.array(moments).T
            draws = self._random.normal(means, deviations, (N_DRAWS, len(means)))
            wins = np.bincount(draws.argmax(axis=1), minlength=len(means)) / N_DRAWS
            chosen = int(self._random.choice(len(means), p=wins))
        return Choice(
            situation, situation.arms[chosen], dict(zip(situation.arms, map(float, wins), strict=True))
        )

    def expect(self, situation: Situation) -> dict[str, float]:
        """The expected reward of each arm."""
        with self._lock:
            return {arm: self._predict(situation, arm)[0] for arm in situation.arms}

    def learn(self, outcome: Outcome) -> None:
        """Raises InvalidRequest if the reward is not in 0..1."""
        situation, arm = outcome.choice.situation, outcome.choice.arm
        if not 0 <= outcome.reward <= 1:
            raise InvalidRequest(f"a reward is a number from 0 to 1, not {outcome.reward!r}")
        with self._lock:
            belief = self._beliefs.setdefault((situation.topic, arm), _Belief())
            belief.learn(_design(situation, arm), outcome.reward)
            self.n_outcomes += 1

    @classmethod
    def replay(cls, outcomes: Iterable[Outcome], *, seed: int = 0) -> BenefitLearner:
        """The learner that has seen these outcomes, in this order."""
        learner = cls(seed=seed)
        for outcome in outcomes:
            learner.learn(outcome)
        return learner

    def _predict(self, situation: Situation, arm: str) -> tuple[float, float]:
        belief = self._beliefs.get((situation.topic, arm)) or _Belief()
        return belief.predict(_design(situation, arm))


def evaluate_policy(outcomes: Sequence[Outcome], policy: Callable[[Situation], Mapping[str, float]]) -> float:
    """The mean reward that `policy`, arm -> probability, would have had: the self-normalised estimate by
    inverse propensities (Swaminathan and Joachims 2015). nan if it never agrees with the log."""
    weights = np.array(
        [
            policy(o.choice.situation).get(o.choice.arm, 0.0) / o.choice.propensities[o.choice.arm]
            for o in outcomes
        ]
    )
    if not weights.sum():
        return float("nan")
    return float(weights @ np.array([o.reward for o in outcomes]) / weights.sum())


def project(row: FloatArray) -> tuple[float, ...]:
    """N_DIMS random projections of a prompt's features, float32[n_features] of length 1, to unit variance."""
    return tuple(map(float, _directions(len(row)) @ row))


@cache
def _directions(n_features: int) -> FloatArray:
    return np.random.default_rng(N_DIMS).standard_normal((N_DIMS, n_features), np.float32)


def _design(situation: Situation, arm: str) -> NDArray[np.float64]:
    """[1, whether the router chose the arm, features]."""
    return np.array((1.0, float(arm == situation.routed), *situation.features))
