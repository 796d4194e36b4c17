"""Limits as callers see them: statuses, headers, bodies, and what OpenAI's client makes of them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import openai
import pytest

from adaptive_lora.engine.fake import FakeEngine
from tests.redis_servers import RedisServer
from tests.serving.conftest import Listen, Serve, until

BODY = {"prompt": "hello", "max_tokens": 10, "ignore_eos": True, "adapter": "base", "raw": True}
N_TOKENS = 11
"""What it takes: FakeEngine's one prompt token a word, and ten."""


def limits(**keys: Any) -> dict[str, Any]:
    """No limit of requests unless `keys` name one."""
    return {"rate_limiting": {"enabled": True, "requests_per_minute": None} | keys}


def requests_a_minute(n: int, burst: int) -> dict[str, Any]:
    return limits(requests_per_minute=n, burst_size=burst)


async def test_every_answer_says_what_is_left(serve: Serve) -> None:
    async with serve(**requests_a_minute(1, 4), api={"max_body_bytes": 1_000}) as client:
        answers = [
            await client.get("/adapters"),
            await client.get("/nowhere"),
            await client.post("/generate", json={"prompt": 1}),
            await client.post("/generate", json={"prompt": "x" * 2_000}),
            await client.get("/adapters"),
        ]
    assert [answer.status_code for answer in answers] == [200, 404, 422, 413, 429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["3", "2", "1", "0", "0"]
    assert {answer.headers["x-ratelimit-limit"] for answer in answers} == {"1"}
    resets = [int(answer.headers["x-ratelimit-reset"]) for answer in answers]
    for n, reset in enumerate(resets[:4], start=1):
        assert 60 * (n - 1) < reset <= 60 * n


async def test_a_refusal_says_why_and_until_when(serve: Serve) -> None:
    async with serve(**requests_a_minute(1, 1)) as client:
        await client.get("/adapters")
        refused = await client.post("/v1/chat/completions", content=b"not even JSON")
        metrics = (await client.get("/metrics")).text
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert "1 requests a minute" in error["message"]
    wait_ms = int(refused.headers["retry-after-ms"])
    assert 50_000 < wait_ms <= 60_000
    assert int(refused.headers["retry-after"]) == -(-wait_ms // 1000)
    assert refused.headers["x-request-id"] == error["request_id"]
    assert 'rate_limited_total{reason="requests"} 1.0' in metrics


async def test_probes_are_not_limited_and_say_nothing(serve: Serve) -> None:
    async with serve(**requests_a_minute(1, 1)) as client:
        for path in ("/live", "/ready", "/health", "/metrics") * 3:
            answer = await client.get(path)
            assert answer.status_code == 200
            assert "x-ratelimit-limit" not in answer.headers


async def test_without_limits_there_are_no_headers(client: httpx.AsyncClient) -> None:
    assert not [name for name in (await client.get("/adapters")).headers if "ratelimit" in name]


@pytest.mark.parametrize("streamed", [False, True])
async def test_tokens_that_were_not_generated_are_given_back(serve: Serve, streamed: bool) -> None:
    async with serve(**limits(tokens_per_minute=1, token_burst=1_000)) as client:
        answer = await client.post("/generate", json=BODY | {"stream": streamed})
        assert answer.status_code == 200
        assert int(answer.headers["x-ratelimit-remaining-tokens"]) <= 1_000 - 10
        after = await client.get("/adapters")
    assert int(after.headers["x-ratelimit-remaining-tokens"]) == 1_000 - N_TOKENS


async def test_a_request_that_fails_costs_no_tokens(serve: Serve) -> None:
    async with serve(**limits(tokens_per_minute=1, token_burst=1_000)) as client:
        for body in (BODY | {"adapter": "nobody"}, {"prompt": ""}):
            assert (await client.post("/generate", json=body)).status_code >= 400
        after = await client.get("/adapters")
    assert after.headers["x-ratelimit-remaining-tokens"] == "1000"


async def test_a_caller_that_goes_away_pays_for_what_was_generated(
    listen: Listen, engine: FakeEngine
) -> None:
    engine._delay_s = 0.02
    async with (
        listen(**limits(tokens_per_minute=1, token_burst=1_000, max_concurrent=1)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        body = BODY | {"stream": True, "max_tokens": 500}
        async with client.stream("POST", "/generate", json=body) as response:
            async for line in response.aiter_lines():
                if "token" in line:
                    break
        await until(lambda: engine._running == 0)

        async def left() -> int:
            return int((await client.get("/adapters")).headers.get("x-ratelimit-remaining-tokens", "0"))

        remaining = await left()
        async with asyncio.timeout(60):
            while remaining <= 500:
                await asyncio.sleep(0.01)
                remaining = await left()
    assert 500 < remaining < 1_000


async def test_too_large_is_not_to_be_tried_again_and_used_up_is(serve: Serve) -> None:
    async with serve(**limits(tokens_per_month=100)) as client:
        large = await client.post("/generate", json=BODY | {"max_tokens": 200})
        fits = await client.post("/generate", json=BODY | {"max_tokens": 90})
        spent = await client.post("/generate", json=BODY)
    assert (large.status_code, large.json()["error"]["code"]) == (400, "invalid_request")
    assert fits.status_code == 200
    assert (spent.status_code, spent.json()["error"]["code"]) == (429, "insufficient_quota")
    assert spent.headers["x-should-retry"] == "false" or int(spent.headers["retry-after"]) <= 60


async def test_items_of_a_batch_are_limited_one_by_one(serve: Serve) -> None:
    async with serve(**limits(tokens_per_minute=1, token_burst=25)) as client:
        batch = {key: value for key, value in BODY.items() if key != "prompt"} | {"prompts": ["a", "b", "c"]}
        answer = await client.post("/generate/batch", json=batch)
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert sum("text" in result for result in results) == 2
    assert [r["error"]["code"] for r in results if "error" in r] == ["rate_limit_exceeded"]


async def test_requests_in_flight_are_counted_until_their_last_byte(
    listen: Listen, engine: FakeEngine
) -> None:
    """One after the other is always allowed; two at once are not."""
    async with (
        listen(**limits(max_concurrent=1)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        for streamed in (False, True) * 5:
            assert (await client.post("/generate", json=BODY | {"stream": streamed})).status_code == 200
        engine._delay_s = 0.05
        running = asyncio.create_task(client.post("/generate", json=BODY))
        await until(lambda: engine._running == 1)
        refused = await client.get("/adapters")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert (await running).status_code == 200


async def test_openais_client_waits_as_long_as_it_is_told(listen: Listen) -> None:
    async with listen(**requests_a_minute(600, 1)) as port:
        client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x", max_retries=9)
        assert len(await asyncio.gather(*(client.models.list() for _ in range(3)))) == 3
        await client.close()


async def test_openais_client_raises_what_it_calls_a_rate_limit_error(listen: Listen) -> None:
    async with listen(**requests_a_minute(1, 1)) as port:
        client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x", max_retries=0)
        await client.models.list()
        with pytest.raises(openai.RateLimitError) as refused:
            await client.models.list()
        await client.close()
    assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "rate_limit_error")


async def test_requests_go_on_while_redis_is_frozen(
    serve: Serve, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    redis = {"url": redis_server.url, "timeout": 0.5}
    async with serve(
        redis=redis, **limits(requests_per_minute=1, burst_size=50, max_concurrent=50)
    ) as client:
        assert (await client.post("/generate", json=BODY)).status_code == 200
        redis_server.freeze()
        for _ in range(3):
            answers = await asyncio.gather(*(client.post("/generate", json=BODY) for _ in range(10)))
            assert [answer.status_code for answer in answers] == [200] * 10
        during = (await client.get("/metrics")).text
        redis_server.thaw()
        async with asyncio.timeout(60):
            while "redis_up 1.0" not in (await client.get("/metrics")).text:  # noqa: ASYNC110 - a server's state
                await asyncio.sleep(0.01)
        assert (await client.post("/generate", json=BODY)).status_code == 200
    assert "redis_up 0.0" in during
    assert 'rate_limit_checks_total{where="own"} 30.0' in during
    changes = [r.getMessage()[:13] for r in caplog.records if r.name == "adaptive_lora.serving.redis"]
    assert changes == ["Redis is away", "Redis answers"]
