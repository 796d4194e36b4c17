"""From outcomes to figures: percentiles, errors by code, goodput, and whether objectives hold."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adaptive_lora.errors import InvalidRequest
from adaptive_lora.loadtest.client import Outcome

Latency = Literal["ttft", "itl", "e2e"]
LATENCIES: tuple[Latency, ...] = ("ttft", "itl", "e2e")
PERCENTILES = (50.0, 90.0, 95.0, 99.0)


@dataclass(frozen=True, slots=True)
class Objective:
    """That a percentile of a latency is at most so many seconds."""

    latency: Latency
    percentile: float
    limit_s: float

    def __str__(self) -> str:
        return f"{self.latency}:p{self.percentile:g}={self.limit_s:g}"


@dataclass(frozen=True, slots=True)
class Objectives:
    """All have to hold. A single request is good if it is answered within every limit."""

    latencies: tuple[Objective, ...]
    max_error_share: float

    def good(self, outcome: Outcome) -> bool:
        if outcome.error is not None:
            return False
        values = ((latency_of(outcome, o.latency), o.limit_s) for o in self.latencies)
        return all(value is None or value <= limit_s for value, limit_s in values)


def parse_objective(text: str) -> Objective:
    """`e2e:p95=2`: 95 % of answers end within 2 seconds. Raises InvalidRequest."""
    found = re.fullmatch(r"(ttft|itl|e2e):p(\d{1,2}(?:\.\d+)?)=(\d+(?:\.\d+)?|\.\d+)", text)
    if found is None or float(found[2]) <= 0 or float(found[3]) <= 0:
        raise InvalidRequest(
            f"{text!r} is no objective: say ttft:p99=0.5, itl:p99=0.1 or e2e:p95=2, in seconds"
        )
    latency: Latency = found[1]  # type: ignore[assignment]
    return Objective(latency, float(found[2]), float(found[3]))


def latency_of(outcome: Outcome, latency: Latency) -> float | None:
    """None if it has none: an error, or no second token."""
    if outcome.error is not None:
        return None
    return {"ttft": outcome.ttft_s, "itl": outcome.itl_s, "e2e": outcome.end_s}[latency]


def percentile(ordered: Sequence[float], p: float) -> float:
    """Nearest rank: the smallest value that `p` percent of all do not exceed. nan of nothing."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(len(ordered) * p / 100 - 1e-9) - 1)]


@dataclass(frozen=True, slots=True)
class Figures:
    """Of some requests that were to be sent in a window of `seconds`."""

    n: int
    n_answered: int
    n_good: int
    n_tokens: int
    seconds: float
    errors: dict[str, int]
    latencies: dict[Latency, list[float]]
    """Sorted."""

    @property
    def error_share(self) -> float:
        return (self.n - self.n_answered) / self.n if self.n else 0.0

    @property
    def goodput(self) -> float:
        """Good answers per second."""
        return self.n_good / self.seconds

    def broken(self, objectives: Objectives) -> list[str]:
        """The objectives that do not hold, each with what was measured."""
        found = []
        for objective in objectives.latencies:
            value = percentile(self.latencies[objective.latency], objective.percentile)
            if value > objective.limit_s:
                measured = f"{objective.latency} p{objective.percentile:g} {value:.3g} s"
                found.append(f"{measured} > {objective.limit_s:g} s")
        if self.error_share > objectives.max_error_share:
            limit = 100 * objectives.max_error_share
            found.append(f"errors {100 * self.error_share:.3g}% > {limit:.3g}%")
        if not self.n_answered:
            found.append("no answer at all")
        return found

    def document(self) -> dict[str, Any]:
        """For JSON; latencies in seconds, None where there is none."""
        return {
            "requests": self.n,
            "answered": self.n_answered,
            "error_share": round(self.error_share, 6),
            "errors": self.errors,
            "offered_per_s": round(self.n / self.seconds, 4),
            "goodput_per_s": round(self.goodput, 4),
            "tokens_per_s": round(self.n_tokens / self.seconds, 2),
            **{f"{name}_s": _percentiles(self.latencies[name]) for name in LATENCIES},
        }


def figures(outcomes: Sequence[Outcome], seconds: float, objectives: Objectives) -> Figures:
    answered = [outcome for outcome in outcomes if outcome.error is None]
    latencies = {
        name: sorted(value for o in answered if (value := latency_of(o, name)) is not None)
        for name in LATENCIES
    }
    return Figures(
        n=len(outcomes),
        n_answered=len(answered),
        n_good=sum(map(objectives.good, answered)),
        n_tokens=sum(outcome.n_tokens for outcome in answered),
        seconds=seconds,
        errors=dict(Counter(o.error for o in outcomes if o.error is not None).most_common()),
        latencies=latencies,
    )


def by_agent(outcomes: Sequence[Outcome], seconds: float, objectives: Objectives) -> dict[str, Figures]:
    """By the agent that was asked for, the most asked for first."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.agent].append(outcome)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return {name: figures(group, seconds, objectives) for name, group in ordered}


def _percentiles(ordered: Sequence[float]) -> dict[str, float | None]:
    return {f"p{p:g}": round(percentile(ordered, p), 5) if ordered else None for p in PERCENTILES}
