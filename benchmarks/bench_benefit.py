"""What learning from outcomes costs and gains, in simulated worlds whose best choice is known.

    python benchmarks/bench_benefit.py [--requests 10000] [--worlds 10] [--plot regret.html]

Eight agents. A request has a topic; the router chooses the topic's agent, or errs within its candidate set,
or leaves the request to the base. Rewards are 0 or 1. In a *faithful* world the topic's agent is the best
(0.8; the base 0.5, others 0.3). In a *misleading* one it is worse than the base on three topics, worse than
some other agent of the candidate set on two, better or worse by the prompt's features on one, and the best on
two. Regret is the expected reward that the best arm of a request has over the chosen one. The last line is
JSON.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _common import print_result

from adaptive_lora.plots import line_plot, page
from adaptive_lora.router.benefit import N_DIMS, BenefitLearner, Outcome, Situation, evaluate_policy
from adaptive_lora.types import BASE

N_AGENTS = 8
FLAWS = {"misleading": 0.05, "faithful": 0.05, "faithful, router nearly perfect": 0.01}
"""Share of requests that the router leaves to the base, and share that it gives to another candidate than the
topic's agent."""
AGENTS = tuple(f"agent{i}" for i in range(N_AGENTS))


@dataclass(frozen=True, slots=True)
class Request:
    situation: Situation
    means: dict[str, float]
    """Expected reward per arm."""


class World:
    def __init__(self, kind: str, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._misleading = kind == "misleading"
        self._flaw = FLAWS[kind]
        direction = self._random.standard_normal(N_DIMS)
        self._direction = direction / np.linalg.norm(direction)
        self._better = {3: AGENTS[6], 4: AGENTS[7]}

    def request(self) -> Request:
        random = self._random
        topic = int(random.integers(N_AGENTS))
        features = random.standard_normal(N_DIMS)
        others = [agent for agent in AGENTS if agent != AGENTS[topic]]
        n_others = int(random.choice(3, p=[0.6, 0.3, 0.1]))
        candidates = [AGENTS[topic], *random.choice(others, n_others, replace=False)]
        if self._misleading and topic in self._better and self._better[topic] not in candidates:
            candidates.append(self._better[topic])
        routed = candidates[0]
        u = random.random()
        if u < self._flaw:
            routed = BASE
        elif u < 2 * self._flaw and len(candidates) > 1:
            routed = candidates[1]
        arms = (*map(str, candidates), BASE)
        situation = Situation(AGENTS[topic], str(routed), arms, tuple(map(float, features)))
        return Request(situation, {arm: self._mean(topic, arm, features) for arm in arms})

    def reward(self, request: Request, arm: str) -> float:
        return float(self._random.random() < request.means[arm])

    def _mean(self, topic: int, arm: str, features: np.ndarray) -> float:
        if arm == BASE:
            return 0.5
        own = arm == AGENTS[topic]
        if not self._misleading:
            return 0.8 if own else 0.3
        if topic < 3:
            return 0.25 if own else 0.2
        if topic in self._better:
            return 0.8 if arm == self._better[topic] else 0.4 if own else 0.3
        if topic == 5:
            return float(np.clip(0.5 + 0.3 * features @ self._direction, 0, 1)) if own else 0.2
        return 0.8 if own else 0.3


def run(world: World, n_requests: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[Outcome]]:
    """Cumulative regret of the router alone and of the learner, and what the learner logged."""
    learner = BenefitLearner(seed=seed)
    regret = np.zeros((2, n_requests))
    log = []
    for i in range(n_requests):
        request = world.request()
        best = max(request.means.values())
        choice = learner.choose(request.situation)
        outcome = Outcome(choice, world.reward(request, choice.arm))
        learner.learn(outcome)
        log.append(outcome)
        regret[:, i] = best - request.means[request.situation.routed], best - request.means[choice.arm]
    alone, learnt = regret.cumsum(axis=1)
    return alone, learnt, log


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--worlds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="HTML file for the regret curves")
    args = parser.parse_args()
    result, plots = {}, []
    for kind in FLAWS:
        ratios, estimates, curves = [], [], []
        for seed in range(args.seed, args.seed + args.worlds):
            world = World(kind, seed)
            alone, learnt, log = run(world, args.requests, seed)
            ratios.append(float(learnt[-1] / alone[-1]))
            curves.append((alone, learnt))
            estimates.append(evaluate_policy(log, lambda situation: {situation.routed: 1.0}))
        result[kind] = {
            "regret_to_router": {
                "mean": round(float(np.mean(ratios)), 3),
                "worst": round(max(ratios), 3),
            },
            "regret_router": round(float(np.mean([a[-1] for a, _ in curves])), 1),
            "regret_learning": round(float(np.mean([b[-1] for _, b in curves])), 1),
            "router_reward_estimated_from_log": round(float(np.nanmean(estimates)), 3),
        }
        step = max(1, args.requests // 100)
        mean = np.mean(curves, axis=0)[:, ::step]
        series = {
            name: [(i * step, float(v)) for i, v in enumerate(line)]
            for name, line in zip(("router alone", "learning"), mean, strict=True)
        }
        plots.append(
            line_plot(
                f"Topics: {kind}; mean of {args.worlds} worlds",
                "requests",
                "cumulative regret",
                series,
                x_max=args.requests,
                y_max=float(mean.max()) * 1.05,
            )
        )
    if args.plot:
        args.plot.write_text(page("Learning from outcomes", '<div class="plots">', *plots, "</div>"))
    print_result({"benefit": {"requests": args.requests, "worlds": args.worlds, **result}}, seed=args.seed)


if __name__ == "__main__":
    main()
