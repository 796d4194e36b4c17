"""The connection to a real Redis: what requests see while it is killed, frozen, restarted, failed over."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from adaptive_lora.errors import RedisUnavailable, SettingsError
from adaptive_lora.serving import redis as redis_module
from adaptive_lora.serving.redis import PREFIX, Redis
from adaptive_lora.settings import RedisSettings
from adaptive_lora.telemetry.redis import RedisMetrics
from tests.redis_servers import RedisServer, SentinelGroup, encrypted_server, skip_without
from tests.serving.conftest import until

KEY = PREFIX + "test"


@asynccontextmanager
async def connected(url: str, metrics: RedisMetrics | None = None, **keys: Any) -> AsyncIterator[Redis]:
    redis = Redis(RedisSettings(url=SecretStr(url), **{"timeout": 1.0, **keys}), metrics)
    try:
        yield redis
    finally:
        await redis.close()


def written(redis: Redis, value: bytes = b"1") -> Awaitable[Any]:
    return redis.call(lambda client: client.set(KEY, value))


async def refused(redis: Redis) -> bool:
    try:
        await written(redis)
    except RedisUnavailable:
        return True
    return False


def states(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of changes of state."""
    said = {"Redis is away": "away", "Redis answers again": "back"}
    lines = [r.getMessage() for r in caplog.records if r.name == redis_module.__name__]
    return [state for line in lines for text, state in said.items() if line.startswith(text)]


async def test_commands_are_answered_in_bytes(redis_server: RedisServer) -> None:
    async with connected(redis_server.url) as redis:
        await written(redis, b"\x00\xff")
        assert await redis.call(lambda client: client.get(KEY)) == b"\x00\xff"


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_an_outage_is_one_line_and_ends_without_a_restart(
    redis_server: RedisServer, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    registry = CollectorRegistry()
    async with connected(redis_server.url, RedisMetrics(registry), timeout=0.25) as redis:
        await asyncio.gather(*(written(redis) for _ in range(20)))
        assert states(caplog) == []
        if how == "kill":
            redis_server.stop(signal.SIGKILL)
        else:
            redis_server.freeze()
        assert all(await asyncio.gather(*(refused(redis) for _ in range(20))))
        assert not redis.is_up
        assert registry.get_sample_value("redis_up") == 0
        for _ in range(200):
            assert await refused(redis)
        assert states(caplog) == ["away"]
        if how == "kill":
            redis_server.start()
        else:
            redis_server.thaw()
        await until(lambda: redis.is_up)
        await written(redis)
        assert states(caplog) == ["away", "back"]
    assert registry.get_sample_value("redis_up") == 1
    assert registry.get_sample_value("redis_breaker_opened_total") == 1
    kind = "error" if how == "kill" else "timeout"
    assert (registry.get_sample_value("redis_failures_total", {"kind": kind}) or 0) >= 1


async def test_a_frozen_server_costs_the_time_limit_and_later_nothing(redis_server: RedisServer) -> None:
    """The clock is the event loop's own: what the breaker refuses does not even yield to it."""
    async with connected(redis_server.url, timeout=0.25) as redis:
        await written(redis)
        redis_server.freeze()
        timers: list[float] = []
        loop = asyncio.get_running_loop()
        original = loop.call_at

        def recording(when: float, *args: Any, **keys: Any) -> asyncio.TimerHandle:
            timers.append(when - loop.time())
            return original(when, *args, **keys)

        loop.call_at = recording  # type: ignore[method-assign]
        assert await refused(redis)
        assert timers
        assert max(timers) <= 0.25
        timers.clear()
        coroutine = written(redis)
        with pytest.raises(RedisUnavailable):  # at its first step: it waits for nothing
            coroutine.send(None)  # type: ignore[attr-defined]
        assert timers == []


async def test_pauses_between_probes_grow(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def recording(delay: float) -> None:
        pauses.append(delay)
        await sleep(0)

    redis_server.stop(signal.SIGKILL)
    async with connected(redis_server.url) as redis:
        monkeypatch.setattr(redis_module.asyncio, "sleep", recording)
        assert await refused(redis)
        while len(pauses) < 10:
            await sleep(0.001)
        monkeypatch.undo()
    assert 0.7 * redis_module.FIRST_PAUSE_S <= pauses[0] <= redis_module.FIRST_PAUSE_S
    assert sorted(pauses[:6]) == pauses[:6]
    assert max(pauses) <= redis_module.MAX_PAUSE_S


async def test_connections_that_died_are_not_used_after_a_restart(redis_server: RedisServer) -> None:
    async with connected(redis_server.url) as redis:
        await asyncio.gather(*(written(redis) for _ in range(30)))
        redis_server.stop()
        redis_server.start()
        await asyncio.gather(*(refused(redis) for _ in range(30)))
        await until(lambda: redis.is_up)
        assert not any(await asyncio.gather(*(refused(redis) for _ in range(30))))


async def test_a_server_that_takes_no_writes_is_away(redis_server: RedisServer) -> None:
    with redis_server.client() as admin:
        async with connected(redis_server.url) as redis:
            await written(redis)
            admin.execute_command("REPLICAOF", "127.0.0.1", "1")
            assert await refused(redis)
            await asyncio.sleep(0.3)  # it would have been probed by now
            assert not redis.is_up
            admin.execute_command("REPLICAOF", "NO", "ONE")
            await until(lambda: redis.is_up)
            await written(redis)


async def test_a_cancelled_command_leaves_no_answer_for_the_next(redis_server: RedisServer) -> None:
    async with connected(redis_server.url, timeout=5.0) as redis:
        await written(redis, b"mine")
        waiting = asyncio.create_task(redis.call(lambda client: client.blpop([PREFIX + "never"], timeout=0)))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        for _ in range(20):
            assert await redis.call(lambda client: client.get(KEY)) == b"mine"
        assert redis.is_up


async def test_an_acl_user_over_tls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    skip_without("redis-server")
    server, url, ca_file = encrypted_server(tmp_path)
    try:
        async with connected(url, timeout=5.0, ca_file=ca_file) as redis:
            await written(redis, b"secret")
            assert await redis.call(lambda client: client.get(KEY)) == b"secret"
        async with connected(url, timeout=5.0) as distrustful:
            assert await refused(distrustful)
        async with connected(url.replace("gateway:", "gateway:x"), timeout=5.0, ca_file=ca_file) as stranger:
            assert await refused(stranger)
        async with connected(url, timeout=5.0, ca_file=ca_file) as redis:
            with pytest.raises(RedisUnavailable):  # not one of our keys
                await redis.call(lambda client: client.set("elsewhere", 1))
    finally:
        server.close()
    assert "p@ss" not in caplog.text
    assert "p%40ss" not in caplog.text


def test_a_ca_file_must_exist(tmp_path: Path) -> None:
    settings = RedisSettings(url=SecretStr("rediss://127.0.0.1/0"), ca_file=tmp_path / "absent.pem")
    with pytest.raises(SettingsError, match=r"redis\.ca_file"):
        Redis(settings)


async def test_sentinels_name_the_new_primary() -> None:
    skip_without("redis-sentinel")
    group = SentinelGroup()
    try:
        url = f"redis://{group.name}/0"
        async with connected(url, timeout=1.0, sentinels=group.addresses) as redis:
            await written(redis, b"before")
            with group.replica.client() as replica:
                await until(lambda: replica.get(KEY) == b"before")
            group.sentinels[0].stop(signal.SIGKILL)  # the others are two of three, and asked instead
            group.primary.stop(signal.SIGKILL)
            assert await refused(redis)
            await until(lambda: redis.is_up)
            assert await redis.call(lambda client: client.get(KEY)) == b"before"
            with group.replica.client() as promoted:
                assert promoted.role()[0] == b"master"
    finally:
        group.close()
