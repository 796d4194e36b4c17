"""The answer cache as callers see it, on a real application and a fake engine."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from fastapi import FastAPI

from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.types import GenerateRequest, TokenChunk
from tests.redis_servers import RedisServer
from tests.serving.conftest import CODE, Listen, Serve, agent, ready, until
from tests.serving.test_disconnect import request_bytes
from tests.serving.test_lifecycle import upload

SECRET = "Zm9yLXRlc3RzLWFsb25lLW5vdC1hLXJlYWwtb25l-0aBcD3fGh1jK"
ON: dict[str, Any] = {"inference": {"cache_enabled": True}}
HEADER = "x-adaptive-lora-cache"


class RecordingEngine(FakeEngine):
    """Remembers what callers asked it, canaries apart."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked: list[GenerateRequest] = []

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        if request.request_id.startswith("req-"):
            self.asked.append(request)
        return super().generate(request)


@pytest.fixture
def engine() -> RecordingEngine:
    return RecordingEngine()


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(**ON) as client:
        yield client


GENERATE = ("/generate", {"prompt": "some code, please", "max_tokens": 12})
CHAT = (
    "/v1/chat/completions",
    {
        "model": "code",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 12,
        "logprobs": True,
        "top_logprobs": 3,
    },
)
COMPLETION = ("/v1/completions", {"model": "creative", "prompt": "hello", "max_tokens": 12, "logprobs": 2})
SAMPLED = ("/v1/chat/completions", {**CHAT[1], "n": 3, "temperature": 0.8, "seed": 4})
ENDPOINTS = pytest.mark.parametrize(("path", "body"), [GENERATE, CHAT, COMPLETION, SAMPLED])


def without_identity(text: str) -> str:
    """Ids and times, which belong to the request and not to the answer, blotted out."""
    return re.sub(r'("(?:id|request_id)":"[^"]*"|"(?:created|latency_ms)":[0-9.]+)', "", text)


@ENDPOINTS
@pytest.mark.parametrize("stream", [False, True])
async def test_the_second_answer_is_the_first_one_to_the_last_byte(
    client: httpx.AsyncClient, engine: RecordingEngine, path: str, body: dict[str, Any], stream: bool
) -> None:
    if stream:
        body = body | {"stream": True}
        if path.startswith("/v1"):
            body["stream_options"] = {"include_usage": True}
    first, second = [await client.post(path, json=body) for _ in range(2)]
    assert (first.status_code, second.status_code) == (200, 200)
    assert (first.headers[HEADER], second.headers[HEADER]) == ("miss", "hit")
    assert without_identity(first.text) == without_identity(second.text)
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert second.headers["x-request-id"] in second.text
    assert len(engine.asked) == 1
    for name in ("agent", "version", "confidence", "decision"):
        assert first.headers[f"x-adaptive-lora-{name}"] == second.headers[f"x-adaptive-lora-{name}"]


@ENDPOINTS
async def test_a_stream_and_a_whole_answer_are_one(
    client: httpx.AsyncClient, engine: RecordingEngine, path: str, body: dict[str, Any]
) -> None:
    streamed = await client.post(path, json=body | {"stream": True})
    whole = await client.post(path, json=body)
    assert (streamed.headers[HEADER], whole.headers[HEADER]) == ("miss", "hit")
    assert len(engine.asked) == 1


async def test_a_replayed_stream_has_the_chunks_of_the_first(client: httpx.AsyncClient) -> None:
    path, body = CHAT
    texts = []
    for _ in range(2):
        async with client.stream("POST", path, json=body | {"stream": True}) as response:
            texts.append([line async for line in response.aiter_lines() if line.startswith("data: {")])
    assert len(texts[0]) > 10
    assert [len(lines) for lines in texts] == [len(texts[0])] * 2


async def test_a_decision_of_the_router_is_made_before_the_cache_is_asked(
    client: httpx.AsyncClient, engine: RecordingEngine
) -> None:
    """`auto` and the agent's own name lead to one answer, and each says why it was that agent."""
    prompt = {"prompt": "some code, please"}
    routed = await client.post("/generate", json=prompt)
    named = await client.post("/generate", json=prompt | {"adapter": f"code@{CODE.version}"})
    assert (routed.headers[HEADER], named.headers[HEADER]) == ("miss", "hit")
    assert routed.json()["confidence"] == 0.9
    assert named.json()["confidence"] == 1.0
    assert [request.adapter_id for request in engine.asked] == [CODE.id]


async def test_agents_do_not_share(client: httpx.AsyncClient) -> None:
    for adapter in ("base", "code", "creative"):
        response = await client.post("/generate", json={"prompt": "hello", "adapter": adapter})
        assert response.headers[HEADER] == "miss"


async def test_a_new_version_is_another_answer(client: httpx.AsyncClient, tmp_path: Path) -> None:
    better = agent("code", seed=12, folder=tmp_path / "two")
    asked = {"prompt": "hello", "adapter": "code"}
    first = await client.post("/generate", json=asked)
    assert (await upload(client, better, alias="prod")).status_code == 201
    second = await client.post("/generate", json=asked)
    assert (first.headers[HEADER], second.headers[HEADER]) == ("miss", "miss")
    assert second.json()["version"] == better.version
    assert second.json()["text"] != first.json()["text"]
    assert (await client.post("/adapters/code/rollback", json={})).status_code == 200
    third = await client.post("/generate", json=asked)
    assert (third.headers[HEADER], third.json()["text"]) == ("hit", first.json()["text"])


async def test_a_conversation_and_raw_text_do_not_share(client: httpx.AsyncClient) -> None:
    for raw in (True, False):
        response = await client.post("/generate", json={"prompt": "hello", "raw": raw, "adapter": "base"})
        assert response.headers[HEADER] == "miss"


async def test_a_list_of_prompts_says_it_for_each(client: httpx.AsyncClient, engine: RecordingEngine) -> None:
    path, body = COMPLETION
    await client.post(path, json=body)
    response = await client.post(path, json=body | {"prompt": ["new", "hello", "new"]})
    assert response.headers[HEADER] == "miss,hit,shared"
    assert len(engine.asked) == 2
    alone = (await client.post(path, json=body)).json()["choices"][0]
    assert response.json()["choices"][1] == alone | {"index": 1}


async def test_a_batch_of_the_same_prompt_is_generated_once(
    client: httpx.AsyncClient, engine: RecordingEngine
) -> None:
    response = await client.post("/generate/batch", json={"prompts": ["hello"] * 20})
    results = response.json()["results"]
    assert len({result["text"] for result in results}) == 1
    assert len({result["request_id"] for result in results}) == 20
    assert len(engine.asked) == 1
    assert HEADER not in response.headers


@pytest.mark.parametrize(
    ("cache_control", "results", "n_generated"),
    [
        ("no-store", ["bypass", "bypass", "miss"], 3),
        ("No-Cache", ["bypass", "bypass", "hit"], 2),
        ("max-age=0", ["bypass", "bypass", "hit"], 2),
        ("private, no-store, no-cache", ["bypass", "bypass", "miss"], 3),
        ("max-age=60", ["miss", "hit", "hit"], 1),
    ],
)
async def test_cache_control(
    client: httpx.AsyncClient,
    engine: RecordingEngine,
    cache_control: str,
    results: list[str],
    n_generated: int,
) -> None:
    path, body = GENERATE
    seen = []
    for headers in ({"cache-control": cache_control}, {"cache-control": cache_control}, {}):
        seen.append((await client.post(path, json=body, headers=headers)).headers[HEADER])
    assert seen == results
    assert len(engine.asked) == n_generated


async def test_random_answers_are_random_unless_earlier_ones_will_do(
    client: httpx.AsyncClient, engine: RecordingEngine
) -> None:
    body = {"prompt": "hello", "temperature": 0.9}
    for _ in range(2):
        assert (await client.post("/generate", json=body)).headers[HEADER] == "bypass"
    accepting = {HEADER: "accept-samples"}
    seen = [(await client.post("/generate", json=body, headers=accepting)).headers[HEADER] for _ in range(2)]
    assert seen == ["miss", "hit"]
    assert len(engine.asked) == 3


async def test_errors_are_not_kept(client: httpx.AsyncClient, engine: RecordingEngine) -> None:
    body = {"prompt": "w " * 5000, "adapter": "base"}
    for _ in range(2):
        assert (await client.post("/generate", json=body)).status_code == 400
    assert len(engine.asked) == 2


async def test_without_the_setting_there_is_no_cache(serve: Serve, engine: RecordingEngine) -> None:
    async with serve() as client:
        for _ in range(2):
            response = await client.post(GENERATE[0], json=GENERATE[1])
            assert HEADER not in response.headers
    assert len(engine.asked) == 2


async def test_metrics_and_access_log(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "adaptive_lora.access")
    for _ in range(3):
        await client.post(GENERATE[0], json=GENERATE[1])
    page = (await client.get("/metrics")).text
    assert 'cache_requests_total{result="miss"} 1.0' in page
    assert 'cache_requests_total{result="hit"} 2.0' in page
    assert "\ncache_saved_tokens_total 24.0" in page
    assert "\ncache_entries 1.0" in page
    assert 'lora_requests_total{agent="code",outcome="done"} 1.0' in page, "one generation"
    logged = [record.__dict__["cache"] for record in caplog.records if record.name == "adaptive_lora.access"]
    assert logged == ["miss", "hit", "hit"]


async def test_a_crowd_shares_one_generation(client: httpx.AsyncClient, engine: RecordingEngine) -> None:
    engine._delay_s = 0.005
    path, body = CHAT
    responses = await asyncio.gather(
        *(client.post(path, json=body | {"stream": i % 2 == 0}) for i in range(30))
    )
    assert sorted(response.headers[HEADER] for response in responses) == ["miss"] + ["shared"] * 29
    assert len(engine.asked) == 1
    assert (
        len({without_identity(r.text) for r in responses if "stream" not in r.headers["content-type"]}) == 1
    )
    assert len({without_identity(r.text) for r in responses if "stream" in r.headers["content-type"]}) == 1


async def test_a_follower_sees_tokens_while_they_are_generated(
    listen: Listen, engine: RecordingEngine
) -> None:
    """On real sockets; and the one that came first may leave."""
    body = {"prompt": "x", "stream": True, "max_tokens": 4000, "ignore_eos": True}
    async with listen(**ON) as port:
        engine._delay_s = 0.02
        connections = []
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request_bytes("/generate", body))
            await reader.readuntil(b"event: token")
            connections.append((reader, writer))
        assert engine._running == 1
        (_, first), (reader, second) = connections
        first.transport.abort()
        for _ in range(20):
            await reader.readuntil(b"event: token")
        assert engine._running == 1
        second.transport.abort()
        await until(lambda: engine._running == 0)
    assert len(engine.asked) == 1


async def test_what_is_cut_off_is_not_kept(listen: Listen, engine: RecordingEngine) -> None:
    body = {"prompt": "x", "max_tokens": 60, "ignore_eos": True}
    async with (
        listen(**ON) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        engine._delay_s = 0.02
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes("/generate", body))
        await until(lambda: engine._running == 1)
        writer.transport.abort()
        await until(lambda: engine._running == 0)
        engine._delay_s = 0.0
        assert (await client.post("/generate", json=body)).headers[HEADER] == "miss"


async def test_past_the_deadline_is_an_error_and_is_not_kept(serve: Serve, engine: RecordingEngine) -> None:
    body = {"prompt": "x", "max_tokens": 4000, "ignore_eos": True, "adapter": "base"}
    async with serve(api={"timeout": 0.3}, **ON) as client:
        engine._delay_s = 0.05
        response = await client.post("/generate", json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
        await until(lambda: engine._running == 0)
        page = (await client.get("/metrics")).text
        assert 'lora_request_errors_total{agent="base",code="deadline_exceeded"} 1.0' in page
        assert "cache_entries 0.0" in page


@pytest.mark.parametrize(("path", "body"), [GENERATE, CHAT, COMPLETION])
async def test_a_clients_own_salt_is_refused(
    client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    response = await client.post(path, json=body | {"cache_salt": "f" * 32})
    assert response.status_code in (400, 422)
    assert "cache_salt" in response.text


def as_tenant(tenant: str) -> dict[str, str]:
    """A caller with a token of its own, of that tenant."""
    name = "adaptive-lora"
    claims = {
        "iss": name,
        "aud": name,
        "sub": "ann",
        "scope": "generate metrics",
        "exp": 2**33,
        "tenant": tenant,
    }
    return {"authorization": f"Bearer {jwt.encode(claims, SECRET)}"}


@pytest.mark.parametrize("cached", [True, False])
async def test_tenants_share_neither_answers_nor_prefixes(
    build: Callable[..., FastAPI], engine: RecordingEngine, cached: bool
) -> None:
    """Nor does a tenant learn from the header what another has asked."""
    app = build(auth={"enabled": True, "jwt_secret": SECRET}, inference={"cache_enabled": cached})
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
    ):
        await ready(client)
        seen = []
        for tenant in ("acme", "globex", "acme", "globex"):
            response = await client.post("/generate", json={"prompt": "x"}, headers=as_tenant(tenant))
            assert response.status_code == 200, response.text
            seen.append(response.headers.get(HEADER))
        if cached:
            assert seen == ["miss", "miss", "hit", "hit"]
        metrics = await client.get("/metrics", headers=as_tenant("acme"))
        assert metrics.status_code == 200
        assert "acme" not in metrics.text
        assert "globex" not in metrics.text
    salts = [request.cache_salt for request in engine.asked]
    assert len(set(salts)) == 2
    assert {len(salt or "") for salt in salts} == {32}
    if not cached:
        assert (salts[0], salts[1]) == (salts[2], salts[3])


async def test_kept_and_shared_answers_take_no_tokens_of_the_callers(
    serve: Serve, engine: RecordingEngine
) -> None:
    """A generation takes 10, and the prompt: there is room for one."""
    body = {"prompt": "x", "raw": True, "max_tokens": 10, "ignore_eos": True, "adapter": "base"}
    limits = {"enabled": True, "requests_per_minute": 600, "burst_size": 600, "tokens_per_minute": 15}
    async with serve(rate_limiting=limits, **ON) as client:
        engine._delay_s = 0.01
        crowd = await asyncio.gather(*(client.post("/generate", json=body) for _ in range(10)))
        crowd.append(await client.post("/generate", json=body))
        assert [response.status_code for response in crowd] == [200] * 11
        assert sorted(r.headers[HEADER] for r in crowd) == ["hit", "miss"] + ["shared"] * 9
        other = await client.post("/generate", json=body | {"prompt": "y"})
        assert (other.status_code, other.json()["error"]["code"]) == (429, "rate_limit_exceeded")


async def test_gateways_share_answers_through_redis(
    build: Callable[..., FastAPI], redis_server: RedisServer, tmp_path: Path
) -> None:
    sections = ON | {"redis": {"url": redis_server.url, "timeout": 2.0}, "cache": {"secret": "s" * 32}}
    engines = [RecordingEngine(), RecordingEngine()]
    seen = []
    for place, engine in enumerate(engines):
        app = build(engine=engine, storage={"path": tmp_path / str(place)}, **sections)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
        ):
            await ready(client)
            response = await client.post(CHAT[0], json=CHAT[1])
            seen.append((response.headers[HEADER], response.json()["choices"]))
            if place == 0:
                await until(lambda: bool(redis_server.client().keys("adaptive-lora:cache:*")))
    assert [result for result, _ in seen] == ["miss", "hit"]
    assert seen[0][1] == seen[1][1]
    assert [len(engine.asked) for engine in engines] == [1, 0]
    for key in redis_server.client().keys("adaptive-lora:cache:*"):
        assert b"hello" not in key + redis_server.client().get(key)
