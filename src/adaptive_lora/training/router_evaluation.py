"""Measure everything that is promised of a router in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_lora.router.policy import Scores
from adaptive_lora.router.router import Router
from adaptive_lora.training.router_data import LabelledPrompt
from adaptive_lora.training.router_metrics import auroc, expected_calibration_error, macro_f1
from adaptive_lora.types import BASE

N_TIMED = 1_000
N_WARM_UP = 50

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Evaluation:
    figures: dict[str, Any]
    """What `adaptive-lora router evaluate --json` prints."""
    truth: tuple[str, ...]
    predicted: tuple[str, ...]
    """The most probable agent, whether or not it was routed to."""
    confidence: tuple[float, ...]
    """Its calibrated probability."""


def evaluate(
    fit: Callable[[], Router],
    examples: Mapping[str, Sequence[str]],
    test: Sequence[LabelledPrompt],
    *,
    oos: Sequence[LabelledPrompt] = (),
    progress: Progress = lambda text: None,
) -> Evaluation:
    """Fit a router, which is to learn from `examples`, and measure it. Prompts of `test` whose label is null
    count as out of scope, as those of `oos` do.

    Latencies are of single prompts of `test`, one after the other in this thread; pin the process to one core
    to have them of one core.
    """
    progress("fitting")
    start = time.perf_counter()
    router = fit()
    fit_s = time.perf_counter() - start

    inside = [row for row in test if row.label is not None]
    outside = [row for row in (*test, *oos) if row.label is None]
    truth = [row.label or "" for row in inside]
    progress("scoring the test prompts")
    start = time.perf_counter()
    scores = router.score([row.prompt for row in inside])
    throughput = len(inside) / (time.perf_counter() - start)
    best = scores.probabilities.argmax(axis=1)
    predicted = [scores.candidates[i] for i in best]
    confidence = scores.probabilities.max(axis=1).astype(float)
    right = np.array([a == b for a, b in zip(truth, predicted, strict=True)])
    routed = _routed(router, scores)

    progress("timing single prompts")
    seconds = _time_singly(router, [row.prompt for row in inside])
    progress("adding and removing an agent")
    label = sorted(router.agents)[0]
    without, remove_s = _timed(lambda: router.without_agent(label))
    _, add_s = _timed(lambda: without.with_agent(label, examples[label]))
    column = {agent: i for i, agent in enumerate(scores.candidates)}
    own = [column.get(label, -1) for label in truth]
    shares = np.where(np.array(own) >= 0, scores.probabilities[np.arange(len(own)), own], 0)
    in_set = scores.probabilities >= router.calibration.candidate_share
    in_set[np.arange(len(best)), best] = True
    figures: dict[str, Any] = {
        "n_train": sum(map(len, examples.values())),
        "n_labels": len(router.agents),
        "n_test": len(inside),
        "n_oos": len(outside),
        "top1": round(float(right.mean()), 4),
        "macro_f1": round(macro_f1(truth, predicted), 4),
        "ece": round(expected_calibration_error(confidence, right), 4),
        "oos_auroc": None,
        "max_error": router.max_error,
        "coverage": round(float(routed.mean()), 4),
        "error": round(float((routed & ~right).sum() / max(1, routed.sum())), 4),
        "oos_rejected": None,
        "candidates": {
            "mean_size": round(float(in_set.sum(axis=1).mean()), 2),
            "holds_right": round(float((right | (shares >= router.calibration.candidate_share)).mean()), 4),
        },
        "settled_early": round(float(np.mean([s + 1 < router.n_stages for s in scores.stages])), 4),
        "latency_ms": {f"p{q}": round(1000 * float(np.percentile(seconds, q)), 3) for q in (50, 99)},
        "throughput_per_s": round(throughput, 1),
        "fit_s": round(fit_s, 2),
        "add_label_s": round(add_s, 3),
        "remove_label_s": round(remove_s, 3),
        "size_mb": round(router.size_bytes / 1e6, 2),
        "encoder": router.encoder_version,
    }
    if outside:
        progress("scoring the out-of-scope prompts")
        away = router.score([row.prompt for row in outside])
        figures["oos_auroc"] = round(auroc(scores.familiarity, away.familiarity), 4)
        figures["oos_rejected"] = round(float((~_routed(router, away)).mean()), 4)
    return Evaluation(figures, tuple(truth), tuple(predicted), tuple(map(float, confidence)))


def _time_singly(router: Router, prompts: Sequence[str]) -> list[float]:
    """Seconds of each of up to N_TIMED decisions."""
    seconds = []
    for prompt in prompts[:N_WARM_UP]:
        router.route(prompt)
    for prompt in prompts[-N_TIMED:]:
        start = time.perf_counter()
        router.route(prompt)
        seconds.append(time.perf_counter() - start)
    return seconds


def _routed(router: Router, scores: Scores) -> NDArray[np.bool_]:
    """bool[prompts]: what is sent to an agent."""
    return np.array([decision.agent != BASE for decision in router.decide(scores)], bool)


def _timed(work: Callable[[], Router]) -> tuple[Router, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start
