"""Several gateways share answers through a real Redis; without it they generate, and nobody waits for it."""

from __future__ import annotations

import logging
import signal

import pytest

from adaptive_lora.serving.cache.redis_store import RedisStore
from tests.redis_servers import RedisServer
from tests.serving.cache.conftest import ANSWER, make_gateway, request_of, settle
from tests.serving.conftest import until
from tests.serving.test_redis import connected

SECRET = b"s" * 32


async def test_gateways_share_answers_for_a_time(redis_server: RedisServer) -> None:
    async with connected(redis_server.url) as one, connected(redis_server.url) as other:
        first, second = (make_gateway(RedisStore(redis, 60.0)) for redis in (one, other))
        assert await first.answer() == ("miss", ANSWER)
        await until(lambda: first.count("cache_writes_total", outcome="kept") == 1)
        assert await second.answer() == ("hit", ANSWER)
        assert second.engine.generations == []
    (key,) = redis_server.client().keys("*cache*")
    assert 0 < redis_server.client().pttl(key) <= 60_000


async def test_tenants_do_not_share_in_redis_either(redis_server: RedisServer) -> None:
    async with connected(redis_server.url) as redis:
        gateway = make_gateway(RedisStore(redis, 60.0))
        assert (await gateway.answer(tenant="acme"))[0] == "miss"
        assert (await gateway.answer(tenant="other"))[0] == "miss"


async def test_with_a_secret_redis_tells_nothing_and_cannot_lie(redis_server: RedisServer) -> None:
    client = redis_server.client()
    async with connected(redis_server.url) as redis:
        plain = make_gateway(RedisStore(redis, 60.0))
        await plain.answer(request_of("what they guess"))
        await until(lambda: plain.count("cache_writes_total", outcome="kept") == 1)
        (guessed,) = client.keys("*cache*")

        gateway = make_gateway(RedisStore(redis, 60.0), secret=SECRET)
        await gateway.answer(request_of("what they guess"))
        await until(lambda: gateway.count("cache_writes_total", outcome="kept") == 1)
        (key,) = set(client.keys("*cache*")) - {guessed}
        assert b"what they guess" not in key + client.get(key)

        client.set(key, client.get(guessed))  # an answer that they have made themselves
        assert await gateway.answer(request_of("what they guess")) == ("miss", ANSWER)
        assert gateway.count("cache_unreadable_total") == 1


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_without_redis_every_answer_is_generated_and_later_found_again(
    redis_server: RedisServer, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with connected(redis_server.url, timeout=0.25) as redis:
        gateway = make_gateway(RedisStore(redis, 60.0))
        await gateway.answer()
        await until(lambda: gateway.count("cache_writes_total", outcome="kept") == 1)
        redis_server.stop(signal.SIGKILL) if how == "kill" else redis_server.freeze()
        for _ in range(20):
            assert await gateway.answer() == ("miss", ANSWER)
            await settle()
        assert gateway.count("cache_writes_total", outcome="unavailable") >= 1
        assert caplog.text.count("Redis is away") == 1
        redis_server.start() if how == "kill" else redis_server.thaw()
        await until(lambda: redis.is_up)
        await gateway.answer()
        await until(lambda: not gateway.cache._flights)
        assert await gateway.answer() == ("hit", ANSWER)


async def test_while_redis_is_away_identical_requests_still_share_a_generation(
    redis_server: RedisServer,
) -> None:
    async with connected(redis_server.url, timeout=0.25) as redis:
        gateway = make_gateway(RedisStore(redis, 60.0))
        redis_server.freeze()
        readers = [gateway.ask() for _ in range(5)]
        await until(lambda: len(gateway.engine.generations) == 1)
        gateway.engine.generations[0].say(*ANSWER)
        gateway.engine.generations[0].end()
        for reader in readers:
            await reader.task
            assert tuple(reader.chunks) == ANSWER
        assert len(gateway.engine.generations) == 1
