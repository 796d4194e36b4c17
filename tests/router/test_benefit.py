from __future__ import annotations

import numpy as np
import pytest

from adaptive_lora.errors import InvalidRequest
from adaptive_lora.router.benefit import (
    N_DIMS,
    BenefitLearner,
    Choice,
    Outcome,
    Situation,
    evaluate_policy,
    project,
)

ARMS = ("code", "base")


def situation(features: tuple[float, ...] = (0.0,) * N_DIMS) -> Situation:
    return Situation("code", "code", ARMS, features)


def rewarded(arm: str, reward: float, features: tuple[float, ...] = (0.0,) * N_DIMS) -> Outcome:
    return Outcome(Choice(situation(features), arm, {"code": 0.5, "base": 0.5}), reward)


def test_without_outcomes_the_routers_choice_stands_nearly_always() -> None:
    choice = BenefitLearner().choose(situation())
    assert choice.propensities["code"] > 0.85
    assert sum(choice.propensities.values()) == pytest.approx(1)


def test_an_agent_that_loses_to_the_base_loses_its_topic() -> None:
    learner = BenefitLearner.replay([rewarded("code", 0.0)] * 30 + [rewarded("base", 1.0)] * 30)
    assert learner.choose(situation()).propensities["base"] > 0.99
    elsewhere = Situation("poems", "poems", ("poems", "base"), (0.0,) * N_DIMS)
    assert learner.choose(elsewhere).propensities["poems"] > 0.85


def test_the_reward_may_depend_on_the_prompt() -> None:
    random = np.random.default_rng(0)
    learner = BenefitLearner()
    for _ in range(600):
        features = tuple(map(float, random.standard_normal(N_DIMS)))
        learner.learn(rewarded("code", float(features[0] > 0), features))
        learner.learn(rewarded("base", 0.5, features))
    sides = [situation((side, *(0.0,) * (N_DIMS - 1))) for side in (2.0, -2.0)]
    assert learner.choose(sides[0]).propensities["code"] > 0.95
    assert learner.choose(sides[1]).propensities["base"] > 0.95


def test_only_arms_of_the_situation_are_chosen() -> None:
    learner = BenefitLearner.replay([rewarded("base", 1.0)] * 50)
    alone = Situation("code", "code", ("code",), (0.0,) * N_DIMS)
    assert learner.choose(alone) == Choice(alone, "code", {"code": 1.0})


def test_propensities_are_the_frequencies_of_choice() -> None:
    learner = BenefitLearner.replay([rewarded("code", 0.2), rewarded("base", 0.8)] * 2, seed=1)
    choices = [learner.choose(situation()) for _ in range(2_000)]
    expected = np.mean([choice.propensities["base"] for choice in choices])
    assert 0.05 < expected < 0.95
    assert np.mean([choice.arm == "base" for choice in choices]) == pytest.approx(expected, abs=0.04)


def test_a_log_is_replayed_to_the_same_beliefs() -> None:
    random = np.random.default_rng(0)
    learner, log = BenefitLearner(seed=3), []
    for _ in range(200):
        choice = learner.choose(situation(tuple(map(float, random.standard_normal(N_DIMS)))))
        log.append(Outcome(choice, float(random.random() < 0.5)))
        learner.learn(log[-1])
    again = BenefitLearner.replay(log)
    assert again.n_outcomes == learner.n_outcomes == 200
    assert again.expect(situation()) == learner.expect(situation())


def test_another_policy_is_judged_from_the_log() -> None:
    random = np.random.default_rng(0)
    means, log = {"code": 0.3, "base": 0.7}, []
    for _ in range(5_000):
        arm = "code" if random.random() < 0.8 else "base"
        choice = Choice(situation(), arm, {"code": 0.8, "base": 0.2})
        log.append(Outcome(choice, float(random.random() < means[arm])))
    assert evaluate_policy(log, lambda s: {"base": 1.0}) == pytest.approx(0.7, abs=0.04)
    assert evaluate_policy(log, lambda s: {"code": 0.5, "base": 0.5}) == pytest.approx(0.5, abs=0.04)
    assert np.isnan(evaluate_policy(log, lambda s: {"nobody": 1.0}))


@pytest.mark.parametrize("reward", [-0.1, 1.1, float("nan")])
def test_a_reward_is_from_0_to_1(reward: float) -> None:
    with pytest.raises(InvalidRequest, match="from 0 to 1"):
        BenefitLearner().learn(rewarded("code", reward))


def test_projected_features_are_numbers_of_about_unit_variance() -> None:
    rows = np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    features = np.array([project(row) for row in rows])
    assert features.shape == (500, N_DIMS)
    assert np.abs(features.std(axis=0) - 1).max() < 0.3
    assert project(rows[0]) == project(rows[0])
