"""Each key of `queue` does what it says."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from adaptive_lora.agents.plan import Plan
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.serving.cache.answers import CachePolicy
from adaptive_lora.serving.runtime import Runtime
from adaptive_lora.types import BASE, GenerateRequest, RouteDecision, SamplingConfig
from tests.settings.effects import key, serving

BODY = {"prompt": "x", "adapter": "base", "max_tokens": 20, "ignore_eos": True}


def runtime_of(client: httpx.AsyncClient) -> Runtime:
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    runtime = transport.app.state.runtime  # type: ignore[attr-defined]
    assert isinstance(runtime, Runtime)
    return runtime


async def most_at_once(n: int, *, priority: Any = "interactive", **queue: Any) -> int:
    """Of `n` generations, how many the engine has at a time."""
    engine = FakeEngine(delay_s=0.001)
    async with serving(engine, queue=queue, inference={"max_batch_size": 4}) as client:
        answers = runtime_of(client).answers("a", CachePolicy("off"), [], priority=priority)
        plan = Plan(RouteDecision(BASE, 1.0, "explicit", {}), None, BASE)
        most = 0

        async def one(index: int) -> None:
            nonlocal most
            request = GenerateRequest(str(index), "x", SamplingConfig(max_tokens=20, ignore_eos=True))
            deadline = asyncio.get_running_loop().time() + 60
            async for _ in answers.stream(plan, request, deadline=deadline):
                most = max(most, len(engine._in_flight))

        await asyncio.gather(*(one(index) for index in range(n)))
    return most


@key("queue.window")
async def test_so_many_are_let_in() -> None:
    assert await most_at_once(12, window=3) == 3
    assert await most_at_once(12) == 6, "half as much again as runs at once"


@key("queue.batch_share")
async def test_so_much_of_the_engine_is_for_low_priority() -> None:
    assert await most_at_once(12, priority="batch") == 3
    assert await most_at_once(12, priority="batch", batch_share=0.5) == 2


@key("queue.max_per_tenant")
async def test_past_the_bound_a_tenant_is_turned_away() -> None:
    engine = FakeEngine(delay_s=0.005)
    async with serving(engine, queue={"window": 1, "max_per_tenant": 2}) as client:
        answers = await asyncio.gather(*(client.post("/generate", json=BODY) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 3


@key("queue.weights")
async def test_a_tier_gets_more_of_the_engine() -> None:
    order: list[str] = []
    engine = FakeEngine(delay_s=0.0005)
    async with serving(engine, queue={"window": 1, "weights": {"gold": 4}}) as client:
        runtime = runtime_of(client)
        plan = Plan(RouteDecision(BASE, 1.0, "explicit", {}), None, BASE)

        async def one(tier: str, index: int) -> None:
            answers = runtime.answers(tier, CachePolicy("off"), [], tier=tier)
            request = GenerateRequest(f"{tier}{index}", "x", SamplingConfig(max_tokens=5, ignore_eos=True))
            await answers.complete(plan, request, deadline=asyncio.get_running_loop().time() + 60)
            order.append(tier)

        await asyncio.gather(*(one(tier, i) for i in range(40) for tier in ("default", "gold")))
    assert order[:40].count("gold") > 28, "four of five, where equals would be twenty"
