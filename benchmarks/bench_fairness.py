"""How long does a tenant with one request wait while another floods the gateway? And what does asking cost?

    python benchmarks/bench_fairness.py [--flood 500] [--light 4] [--seconds 15] ...

One tenant keeps `--flood` generations waiting or running; `--light` callers ask for one at a time. First
every caller is a tenant of its own ("fair"), then all are one tenant, whose line is first come, first
served ("fifo"). The engine is the fake one: each answer takes the same time, `--sequences` run at once. The
last line is JSON:

    fair, fifo    until the light callers' first token, in turns: times of one answer; and answers a second
    cost_us       what a generation costs in the queue when nobody waits, in CPU time: entering and leaving
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import aclosing

from _common import print_result

from adaptive_lora.agents.plan import Plan
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.serving.cache.answers import CachePolicy
from adaptive_lora.serving.runtime import Runtime
from adaptive_lora.settings import Settings
from adaptive_lora.telemetry.metrics import Metrics
from adaptive_lora.types import BASE, GenerateRequest, RouteDecision, SamplingConfig

PLAN = Plan(RouteDecision(BASE, 1.0, "explicit", {}), None, BASE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flood", type=int, default=500, help="generations of the one tenant")
    parser.add_argument("--light", type=int, default=4, help="callers with one at a time")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--sequences", type=int, default=16, help="that the engine runs at once")
    parser.add_argument("--tokens", type=int, default=20, help="of each answer")
    parser.add_argument("--token-ms", type=float, default=10.0)
    args = parser.parse_args()
    result = {
        "fair": asyncio.run(measure(args, lambda caller: caller)),
        "fifo": asyncio.run(measure(args, lambda _: "everybody")),
        "cost_us": asyncio.run(cost_us()),
    }
    print_result(result, seed=0)


async def measure(args: argparse.Namespace, tenant_of: Callable[[str], str]) -> dict[str, float]:
    settings = Settings.model_validate(
        {
            "model": {"engine": "fake", "base_model": "fake"},
            "inference": {"max_batch_size": args.sequences},
            "queue": {"max_per_tenant": 2 * (args.flood + args.light)},
        }
    )
    engine = FakeEngine("fake", max_num_seqs=args.sequences, delay_s=args.token_ms / 1000)
    runtime = Runtime(settings, Metrics(), engine=engine)
    runtime.start()
    while runtime.phase != "ready":  # noqa: ASYNC110 - it says so in no other way
        await asyncio.sleep(0.01)
    ids = itertools.count()
    latencies: dict[str, list[float]] = {"flood": [], "light": []}
    ends_at = time.perf_counter() + args.seconds

    async def caller(name: str, kind: str) -> None:
        answers = runtime.answers(tenant_of(name), CachePolicy("off"), [])
        sampling = SamplingConfig(max_tokens=args.tokens, ignore_eos=True)
        while time.perf_counter() < ends_at:
            started = time.perf_counter()
            request = GenerateRequest(str(next(ids)), "x", sampling)
            deadline = asyncio.get_running_loop().time() + 600
            async with aclosing(answers.stream(PLAN, request, deadline=deadline)) as chunks:
                await anext(chunks)
                latencies[kind].append(time.perf_counter() - started)
                async for _ in chunks:
                    pass

    flood = [asyncio.create_task(caller("flood", "flood")) for _ in range(args.flood)]
    await asyncio.sleep(1.0)
    light = [asyncio.create_task(caller(f"light-{i}", "light")) for i in range(args.light)]
    await asyncio.gather(*flood, *light)
    await runtime.stop()
    turn_s = args.tokens * args.token_ms / 1000
    turns = sorted(latency / turn_s for latency in latencies["light"])
    return {
        "light_p50_turns": round(statistics.median(turns), 2),
        "light_p99_turns": round(turns[int(len(turns) * 0.99)], 2),
        "light_answers": len(turns),
        "answers_per_s": round(sum(map(len, latencies.values())) / args.seconds, 1),
    }


async def cost_us(n: int = 20_000) -> float:
    """The least of five runs: others use this machine, too."""
    queues = Runtime(Settings(), Metrics(), engine=FakeEngine()).queues
    least = float("inf")
    for _ in range(5):
        started = time.process_time()
        for _ in range(n):
            turn = queues.turn("tenant", n_tokens=300, adapter_id="code@3f9c2a", deadline=float("inf"))
            await turn.enter()
            turn.leave(200)
        least = min(least, (time.process_time() - started) / n)
    return round(least * 1e6, 2)


if __name__ == "__main__":
    main()
