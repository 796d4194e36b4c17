"""Load at one rate after another, and what it showed."""

from __future__ import annotations

import asyncio
import random
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from adaptive_lora.errors import EngineError, InvalidRequest
from adaptive_lora.loadtest.client import Client, Outcome
from adaptive_lora.loadtest.open_loop import open_loop, poisson
from adaptive_lora.loadtest.search import RateSearch
from adaptive_lora.loadtest.step import LoadConfig, Sent, Step, measured
from adaptive_lora.loadtest.workload import Workload

KEEP_ALIVE_S = 2.0
"""Less than servers keep idle connections: a request on one that the server is closing would be an error."""
OTHER_FILES = 64
"""What a process has open besides its connections."""


@dataclass
class Result:
    """All rates that were tried, in that order."""

    config: LoadConfig
    steps: list[Step] = field(default_factory=list)
    interrupted: bool = False

    @property
    def knee(self) -> Step | None:
        """The highest rate that held."""
        return max((step for step in self.steps if step.held), key=lambda step: step.rate, default=None)

    @property
    def first_broken(self) -> Step | None:
        """The lowest rate that did not."""
        return min((step for step in self.steps if step.broken), key=lambda step: step.rate, default=None)

    @property
    def curve(self) -> list[Step]:
        """By rate."""
        return sorted(self.steps, key=lambda step: step.rate)

    def document(self) -> dict[str, Any]:
        config, knee, broken = self.config, self.knee, self.first_broken
        return {
            "objectives": {
                "latencies": [str(objective) for objective in config.objectives.latencies],
                "max_error_share": config.objectives.max_error_share,
            },
            "seconds": config.seconds,
            "warmup_s": config.warmup_s,
            "seed": config.seed,
            "interrupted": self.interrupted,
            "knee": {
                "holds_per_s": None if knee is None else round(knee.rate, 4),
                "fails_per_s": None if broken is None else round(broken.rate, 4),
                "goodput_per_s": None if knee is None else round(knee.overall.goodput, 4),
                "generator_bound": broken is not None and broken.generator_bound,
            },
            "goodput": [
                {"rate_per_s": round(s.rate, 4), "goodput_per_s": round(s.overall.goodput, 4)}
                for s in self.curve
            ],
            "steps": [step.document() for step in self.steps],
        }


async def run(
    url: str,
    headers: Mapping[str, str],
    workload: Workload,
    config: LoadConfig,
    search: RateSearch,
    *,
    stop: asyncio.Event,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Result:
    """Try the rates that `search` asks for. When `stop` is set, the step that runs ends at once.

    Raises EngineError if the server does not answer a single request, before any load.
    """
    _allow_connections(config.max_in_flight)
    result = Result(config)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
    no_limit = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        url.rstrip("/") + "/", connector=connector, timeout=no_limit, headers=headers
    ) as session:
        client = Client(session, timeout_s=config.timeout_s, ignore_eos=config.ignore_eos)
        first = await client.ask(workload.next(), 0.0, asyncio.get_running_loop().time())
        if first.error is not None:
            raise EngineError(f"{url} does not answer {first.agent!r}: {first.error}")
        while not stop.is_set() and (rate := search.next_rate()) is not None:
            rng = random.Random(f"{config.seed}/{len(result.steps)}")
            step = await _step(rate, client, workload, config, rng, stop)
            result.interrupted = step.interrupted
            result.steps.append(step)
            search.tell(rate, step.held)
            on_step(step)
    result.interrupted |= stop.is_set()
    return result


async def _step(
    rate: float,
    client: Client,
    workload: Workload,
    config: LoadConfig,
    rng: random.Random,
    stop: asyncio.Event,
) -> Step:
    outcomes: list[Outcome] = []
    sent_until = 0.0

    async def send(at_s: float, started: float) -> None:
        nonlocal sent_until
        sent_until = max(sent_until, at_s)
        outcomes.append(await client.ask(workload.next(), at_s, started))

    end = config.warmup_s + config.seconds
    started, cpu_started = time.perf_counter(), time.process_time()
    complete = await open_loop(poisson(rate, end, rng), send, max_in_flight=config.max_in_flight, stop=stop)
    cpu_share = (time.process_time() - cpu_started) / (time.perf_counter() - started)
    interrupted = stop.is_set()
    sent = Sent(
        rate,
        outcomes,
        end if complete else sent_until,
        cpu_share,
        overloaded=not complete and not interrupted,
        interrupted=interrupted,
    )
    return measured(sent, config)


def _allow_connections(n: int) -> None:
    """Raises InvalidRequest if this process may not have so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = n + OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise InvalidRequest(
            f"{n} connections at once need {needed} open files, and this process may have {hard}: "
            "lower --max-in-flight, or raise the limit (ulimit -Hn)"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
