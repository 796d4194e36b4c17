"""Load at one rate: how it is tried, and what is made of its outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adaptive_lora.loadtest.client import Outcome
from adaptive_lora.loadtest.figures import Figures, Objectives, by_agent, figures, percentile

MAX_CPU_SHARE = 0.9
MAX_LAG_SHARE, MIN_LAG_S = 0.1, 0.01
BACKLOG_SHARE, BACKLOG_SIGMAS = 0.02, 3.0


@dataclass(frozen=True, slots=True)
class LoadConfig:
    """How each rate is tried."""

    objectives: Objectives
    seconds: float = 30.0
    """Length of the window that is measured, after `warmup_s` at the same rate that is not."""
    warmup_s: float = 5.0
    timeout_s: float = 60.0
    max_in_flight: int = 2048
    """As many unanswered requests are an overload: the rate is given up."""
    ignore_eos: bool = False
    seed: int = 0

    @property
    def max_lag_s(self) -> float:
        """At the 99th percentile; more than that falsifies what is compared with the tightest objective."""
        limits = [objective.limit_s for objective in self.objectives.latencies]
        return max(MIN_LAG_S, MAX_LAG_SHARE * min(limits, default=0.0))


@dataclass(frozen=True, slots=True)
class Step:
    """One rate, and what came of it."""

    rate: float
    overall: Figures
    agents: dict[str, Figures]
    achieved: float
    """Answers per second that ended in the window, whenever they were asked for."""
    lag_p99_s: float
    cpu_share: float
    """Of one core, that this process used."""
    broken: list[str]
    """Objectives that did not hold; empty if all did."""
    generator_bound: bool
    """This process could not keep the pace: the figures say more of it than of the server."""
    interrupted: bool

    @property
    def held(self) -> bool:
        return not self.broken and not self.interrupted

    def document(self) -> dict[str, Any]:
        return {
            "rate_per_s": round(self.rate, 4),
            "held": self.held,
            "broken": self.broken,
            "interrupted": self.interrupted,
            "generator_bound": self.generator_bound,
            "generator_lag_p99_s": round(self.lag_p99_s, 5),
            "generator_cpu_share": round(self.cpu_share, 3),
            "window_s": round(self.overall.seconds, 3),
            "achieved_per_s": round(self.achieved, 4),
            **self.overall.document(),
            "agents": {name: found.document() for name, found in self.agents.items()},
        }


@dataclass(frozen=True, slots=True)
class Sent:
    """What a step has sent and seen."""

    rate: float
    outcomes: Sequence[Outcome]
    end_s: float
    """When the last request was due, or would have been."""
    cpu_share: float
    overloaded: bool = False
    """Given up, because too many were unanswered."""
    interrupted: bool = False
    """Ended by Ctrl-C: what was under way then is missing among the outcomes."""


def measured(sent: Sent, config: LoadConfig) -> Step:
    """Figures of the window: all from the end of the warm-up to `end_s`, or from the start if that is all."""
    begin = config.warmup_s if sent.end_s > config.warmup_s else 0.0
    seconds = max(sent.end_s - begin, 1e-3)
    window = [outcome for outcome in sent.outcomes if begin <= outcome.at_s <= sent.end_s]
    overall = figures(window, seconds, config.objectives)
    broken = overall.broken(config.objectives) if window or not sent.interrupted else []
    if sent.overloaded:
        broken.append(f"{config.max_in_flight} requests unanswered")
    growth = _backlog_growth(sent.outcomes, begin, sent.end_s)
    if growth > BACKLOG_SHARE * len(window) and not sent.interrupted:
        broken.append(f"the queue has grown by {growth}")
    lag_p99_s = percentile(sorted(outcome.lag_s for outcome in window), 99) if window else 0.0
    ended = [o for o in sent.outcomes if o.error is None and begin <= o.at_s + o.end_s <= sent.end_s]
    return Step(
        rate=sent.rate,
        overall=overall,
        agents=by_agent(window, seconds, config.objectives),
        achieved=len(ended) / seconds,
        lag_p99_s=lag_p99_s,
        cpu_share=sent.cpu_share,
        broken=broken,
        generator_bound=lag_p99_s > config.max_lag_s or sent.cpu_share > MAX_CPU_SHARE,
        interrupted=sent.interrupted,
    )


def _backlog_growth(outcomes: Sequence[Outcome], begin: float, end: float) -> int:
    """How many more requests are under way at `end` than at `begin`; 0 if chance alone explains it.

    A queue that grows all the time breaks any objective in the end, though perhaps not in so short a window.
    The number under way in a steady state varies by about its square root; it is not steady before the first
    requests have had time to end.
    """
    begin = max(begin, percentile(sorted(o.end_s for o in outcomes), 90)) if outcomes else begin
    if begin >= end:
        return 0
    before, after = (sum(o.at_s <= moment < o.at_s + o.end_s for o in outcomes) for moment in (begin, end))
    growth = after - before
    return growth if growth > BACKLOG_SIGMAS * (before + after) ** 0.5 else 0
