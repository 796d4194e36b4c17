"""Queues whose latencies are known without asking anybody: an oracle for what a load test finds."""

from __future__ import annotations

import math
import random

from adaptive_lora.loadtest.client import Outcome
from adaptive_lora.loadtest.open_loop import poisson
from adaptive_lora.loadtest.step import LoadConfig, Sent, Step, measured


def mm1_percentile_s(rate: float, service_rate: float, p: float) -> float:
    """Of the time in an M/M/1 queue and its service, which is exponential with their difference."""
    return math.inf if rate >= service_rate else -math.log(1 - p / 100) / (service_rate - rate)


def mm1_knee(service_rate: float, p: float, limit_s: float) -> float:
    """The rate at which that percentile is `limit_s`."""
    return service_rate + math.log(1 - p / 100) / limit_s


def mm1_step(rate: float, service_rate: float, config: LoadConfig, rng: random.Random) -> Step:
    """One simulated step: arrivals as the load test makes them, one server, first come first served."""
    free_at = 0.0
    outcomes = []
    end = config.warmup_s + config.seconds
    for at_s in poisson(rate, end, rng):
        free_at = max(free_at, at_s) + rng.expovariate(service_rate)
        spent_s = free_at - at_s
        outcomes.append(Outcome("code", at_s, 0.0, spent_s, ttft_s=spent_s, n_tokens=1, answered_by="code"))
    return measured(Sent(rate, outcomes, end, cpu_share=0.1), config)
