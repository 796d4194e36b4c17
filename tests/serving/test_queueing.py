"""Who waits for whom, over HTTP: tenants, priorities, deadlines, and clients that go away while they wait."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from adaptive_lora.agents.reconcile import HANDOVER_S
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.serving.runtime import Runtime
from tests.serving.auth.signing import SECRET, bearer, token
from tests.serving.conftest import CODE, Listen, Serve, ready, until
from tests.serving.test_disconnect import request_bytes

SHORT = {"prompt": "x", "adapter": "base", "max_tokens": 10, "ignore_eos": True}
LONG = SHORT | {"max_tokens": 3_000}

OpenShop = Callable[..., AbstractAsyncContextManager["Shop"]]


class Shop:
    """A gateway whose engine runs one at a time, and its callers."""

    def __init__(self, client: httpx.AsyncClient, app: FastAPI) -> None:
        self.client = client
        runtime = app.state.runtime
        assert isinstance(runtime, Runtime)
        self.runtime = runtime

    async def ask(
        self, tenant: str = "a", body: dict[str, Any] = SHORT, *, path: str = "/generate", **headers: str
    ) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        credential = bearer(token(tenant=tenant))
        return await self.client.post(path, json=body, headers=credential | named)

    def start(self, *args: Any, **keys: Any) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(self.ask(*args, **keys))

    async def waiting(self, n: int) -> None:
        await until(lambda: len(self.runtime.queues) == n)

    async def metric(self, name: str) -> float:
        """One series, by its name and labels as they stand on the page; 0 if there is none."""
        page = (await self.client.get("/metrics", headers=bearer(token(scope="metrics")))).text
        found = re.search(rf"^{re.escape(name)} (\S+)$", page, re.MULTILINE)
        return float(found[1]) if found else 0.0


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(max_num_seqs=1)


@pytest.fixture
def open_shop(build: Callable[..., FastAPI], tmp_path: Path) -> OpenShop:
    @asynccontextmanager
    async def _open(**sections: Any) -> AsyncIterator[Shop]:
        sections = {"inference": {"max_batch_size": 1}, "queue": {"window": 1}} | sections
        app = build(
            auth={"enabled": True, "jwt_secret": SECRET}, storage={"path": tmp_path / "state"}, **sections
        )
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
        ):
            await ready(client)
            yield Shop(client, app)

    return _open


@pytest.fixture
async def shop(open_shop: OpenShop) -> AsyncIterator[Shop]:
    async with open_shop() as shop:
        yield shop


async def test_a_flood_delays_others_by_one_turn(shop: Shop, engine: FakeEngine) -> None:
    engine._delay_s = 0.001
    order: list[str] = []

    async def served(tenant: str) -> None:
        answer = await shop.ask(tenant)
        assert answer.status_code == 200
        order.append(tenant)

    flood = [asyncio.create_task(served("flood")) for _ in range(60)]
    await shop.waiting(59)
    light = asyncio.create_task(served("light"))
    await light
    assert order.count("flood") <= 40, "it did not stand behind all of them"
    n_before = len(order)
    for _ in range(5):
        await served("light")
    assert len(order) - n_before <= 3 * 5, "one turn of the other tenant each, and what had begun"
    await asyncio.gather(*flood)


async def test_the_queues_bound_is_the_tenants_own(open_shop: OpenShop, engine: FakeEngine) -> None:
    async with open_shop(queue={"window": 1, "max_per_tenant": 2}) as shop:
        engine._delay_s = 0.01
        running = shop.start(body=LONG)
        await until(lambda: engine._running == 1)
        waiting = [shop.start(), shop.start()]
        await shop.waiting(2)
        refused = await shop.ask()
        other = shop.start("b")
        await shop.waiting(3)
        running.cancel()
        answers = await asyncio.gather(*waiting, other)
        metrics = await shop.metric('queue_refused_total{reason="tenant_full"}')
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(refused.headers["retry-after"]) >= 1
    assert [answer.status_code for answer in answers] == [200] * 3
    assert metrics == 1


async def test_the_tokens_of_who_is_refused_are_given_back(open_shop: OpenShop, engine: FakeEngine) -> None:
    limits = {"enabled": True, "requests_per_minute": None, "tokens_per_minute": 10_000}
    async with open_shop(queue={"window": 1, "max_per_tenant": 1}, rate_limiting=limits) as shop:
        engine._delay_s = 0.01
        running = shop.start(body=LONG)
        await until(lambda: engine._running == 1)
        waiting = shop.start()
        await shop.waiting(1)
        for _ in range(20):
            assert (await shop.ask(body=LONG)).status_code == 429
        running.cancel()
        answer = await waiting
        assert answer.status_code == 200
        assert int((await shop.ask()).headers["x-ratelimit-remaining-tokens"]) > 6_000


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(shop: Shop, engine: FakeEngine) -> None:
    """429 for who has too much waiting itself, 503 for who waits for others; nobody before the rate is
    known."""
    engine._delay_s = 0.005
    flood = [shop.start("flood") for _ in range(100)]
    while not await shop.metric("queue_service_tokens_per_second"):  # noqa: ASYNC110 - an engine's pace
        await asyncio.sleep(0.05)
    assert len(shop.runtime.queues) > 10
    own = await shop.ask("flood", x_adaptive_lora_timeout="0.1")
    assert own.status_code == 429
    assert float(own.headers["retry-after-ms"]) > 0

    engine._delay_s = 1.0  # so that they are all still there when the last one comes
    n_waiting = len(shop.runtime.queues)
    others = [shop.start(f"other-{i}") for i in range(40)]
    await until(lambda: len(shop.runtime.queues) >= n_waiting + 30)
    system = await shop.ask("late", x_adaptive_lora_timeout="0.1")
    assert (system.status_code, system.json()["error"]["code"]) == (503, "overloaded")
    assert float(system.headers["retry-after-ms"]) > 0
    for task in (*flood, *others):
        task.cancel()
    await until(lambda: len(shop.runtime.queues) == 0 and engine._running == 0)
    assert await shop.metric('queue_refused_total{reason="tenant_wait"}') == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", LONG),
        ("/generate", LONG | {"stream": True}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "model": "base"}),
        ("/v1/completions", {"prompt": "x", "model": "base"}),
    ],
)
async def test_past_its_deadline_a_request_that_waits_gets_504(
    shop: Shop, engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    engine._delay_s = 0.01
    running = shop.start(body=LONG)
    await until(lambda: engine._running == 1)
    late = await shop.ask("b", body, path=path, x_adaptive_lora_timeout="0.05")
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert len(shop.runtime.queues) == 0
    assert not running.done()
    running.cancel()


async def test_past_its_deadline_a_request_that_runs_frees_its_slot(shop: Shop, engine: FakeEngine) -> None:
    engine._delay_s = 0.01
    late = await shop.ask(body=LONG, x_adaptive_lora_timeout="0.1")
    assert late.status_code == 504
    await until(lambda: engine._running == 0)
    assert (await shop.ask()).status_code == 200


async def test_items_of_a_batch_have_the_batchs_deadline(shop: Shop, engine: FakeEngine) -> None:
    engine._delay_s = 0.01
    body = {"requests": [SHORT, LONG, SHORT]}
    answer = await shop.ask(body=body, path="/generate/batch", x_adaptive_lora_timeout="0.4")
    first, second, third = answer.json()["results"]
    assert "text" in first
    assert [each["error"]["code"] for each in (second, third)] == ["deadline_exceeded"] * 2


@pytest.mark.parametrize("value", ["0", "-1", "soon", "1e3", "inf", "", "5, 6"])
@pytest.mark.parametrize("path", ["/generate", "/generate/batch", "/v1/chat/completions", "/v1/completions"])
async def test_a_timeout_that_is_none_is_refused(shop: Shop, path: str, value: str) -> None:
    body = {
        "/generate": SHORT,
        "/generate/batch": {"prompts": ["x"]},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
        "/v1/completions": {"prompt": "x"},
    }[path]
    answer = await shop.ask(body=body, path=path, x_adaptive_lora_timeout=value)
    assert answer.status_code == 400
    assert "x-adaptive-lora-timeout" in answer.json()["error"]["message"]


async def test_more_time_than_the_server_allows_is_cut(open_shop: OpenShop, engine: FakeEngine) -> None:
    async with open_shop(api={"timeout": 0.2}) as shop:
        engine._delay_s = 0.01
        assert (await shop.ask(body=LONG, x_adaptive_lora_timeout="600")).status_code == 504


@pytest.mark.parametrize("is_cached", [False, True])
async def test_a_client_that_goes_away_while_it_waits(
    listen: Listen, engine: FakeEngine, is_cached: bool
) -> None:
    sections: dict[str, Any] = {"queue": {"window": 1}}
    sections["inference"] = {"max_batch_size": 1, "cache_enabled": is_cached}
    async with (
        listen(**sections) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        engine._delay_s = 0.01
        _, running = await asyncio.open_connection("127.0.0.1", port)
        running.write(request_bytes("/generate", LONG))
        await until(lambda: engine._running == 1)
        _, gone = await asyncio.open_connection("127.0.0.1", port)
        gone.write(request_bytes("/generate", SHORT | {"prompt": "y"}))

        async def queue_size() -> float:
            page = (await client.get("/metrics")).text
            return float(re.findall(r"^lora_queue_size (\S+)$", page, re.MULTILINE)[0])

        while await queue_size() != 1:  # noqa: ASYNC110 - it is a server's state
            await asyncio.sleep(0.01)
        gone.transport.abort()
        async with asyncio.timeout(10):
            while await queue_size() != 0:  # noqa: ASYNC110 - it is a server's state
                await asyncio.sleep(0.01)
        assert engine._running == 1
        running.transport.abort()
        await until(lambda: engine._running == 0)


async def test_a_version_that_leaves_answers_who_waits_for_it_and_may_come_back_meanwhile(
    serve: Serve, engine: FakeEngine
) -> None:
    async with serve(inference={"max_batch_size": 1}, queue={"window": 1}) as client:
        engine._delay_s = 0.01
        running = asyncio.create_task(client.post("/generate", json=LONG))
        await until(lambda: engine._running == 1)
        body = SHORT | {"adapter": f"code@{CODE.version}"}
        waiting = asyncio.create_task(client.post("/generate", json=body))
        while "lora_queue_size 1.0" not in (await client.get("/metrics")).text:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        assert (await client.delete("/adapters/code/aliases/prod")).status_code == 204
        for action, state in (("unload", "unloaded"), ("load", "ready"), ("unload", "unloaded")):
            answer = await client.post(f"/adapters/code/versions/{CODE.version}/{action}")
            assert (answer.status_code, answer.json()["state"]) == (200, state)
        await asyncio.sleep(HANDOVER_S + 0.1)  # from then on only who waits for it keeps it
        assert not waiting.done()
        running.cancel()
        assert (await waiting).json()["version"] == CODE.version
        await until(lambda: CODE.id not in engine.adapters)


async def test_who_starts_a_shared_generation_with_little_time_ends_it_for_nobody_else(
    open_shop: OpenShop, engine: FakeEngine
) -> None:
    async with open_shop(inference={"max_batch_size": 1, "cache_enabled": True}) as shop:
        engine._delay_s = 0.01
        body = SHORT | {"max_tokens": 100}
        hasty = shop.start(body=body, x_adaptive_lora_timeout="0.3")
        await until(lambda: engine._running == 1)
        patient = shop.start(body=body)
        assert (await hasty).status_code == 504
        answer = await patient
    assert (answer.status_code, answer.headers["x-adaptive-lora-cache"]) == (200, "shared")
