"""The keys of limits, of the Redis that shares them, and of the proxies that tell who calls."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.errors import RedisUnavailable, SettingsError
from adaptive_lora.serving.api import create_app
from adaptive_lora.serving.principal import Principal
from adaptive_lora.serving.quotas.limiter import Limiter
from adaptive_lora.serving.redis import PREFIX, Redis
from adaptive_lora.settings import RateLimitingSettings, RedisSettings
from tests.redis_servers import SentinelGroup, encrypted_server, plain_server, skip_without
from tests.settings.effects import key, serving, settings_of

BODY = {"prompt": "x", "max_tokens": 10, "ignore_eos": True}


async def statuses(n: int, engine: FakeEngine | None = None, **limits: Any) -> list[int]:
    """Of `n` requests, made at once."""
    async with serving(engine, rate_limiting={"enabled": True, **limits}) as client:
        answers = await asyncio.gather(*(client.post("/generate", json=BODY) for _ in range(n)))
    return [answer.status_code for answer in answers]


@key("rate_limiting.enabled", "rate_limiting.burst_size")
async def test_a_burst_is_allowed_and_no_more_if_limits_are_on() -> None:
    slow = {"requests_per_minute": 1, "burst_size": 2}
    assert sorted(await statuses(4, **slow)) == [200, 200, 429, 429]
    assert await statuses(4, enabled=False, **slow) == [200] * 4


@key("rate_limiting.requests_per_minute")
async def test_the_rate_says_when_the_next_may_come() -> None:
    async with serving(rate_limiting={"enabled": True, "requests_per_minute": 2, "burst_size": 1}) as client:
        await client.post("/generate", json=BODY)
        refused = await client.post("/generate", json=BODY)
    assert refused.headers["x-ratelimit-limit"] == "2"
    assert 25 <= int(refused.headers["retry-after"]) <= 30


@key("rate_limiting.tokens_per_minute", "rate_limiting.token_burst", "rate_limiting.tokens_per_month")
@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"tokens_per_minute": 15}, "rate_limit_exceeded"),
        ({"tokens_per_minute": 1_000, "token_burst": 15}, "rate_limit_exceeded"),
        ({"tokens_per_month": 15}, "insufficient_quota"),
    ],
)
async def test_tokens_are_limited(limits: dict[str, int], code: str) -> None:
    """A request takes 10, and the byte of its prompt."""
    async with serving(rate_limiting={"enabled": True, **limits}) as client:
        first = await client.post("/generate", json=BODY | {"raw": True})
        second = await client.post("/generate", json=BODY | {"raw": True})
    assert first.status_code == 200, first.text
    assert (second.status_code, second.json()["error"]["code"]) == (429, code)


@key("rate_limiting.max_concurrent")
async def test_requests_in_flight_are_limited() -> None:
    outcome = await statuses(3, FakeEngine(delay_s=0.01), max_concurrent=1)
    assert sorted(outcome) == [200, 429, 429]
    assert sorted(await statuses(3, FakeEngine(delay_s=0.01), max_concurrent=3)) == [200] * 3


async def n_admitted(principal: Principal, **keys: Any) -> int:
    """Of a hundred at once, with a burst of ten unless `keys` say something else."""
    limiter = Limiter(
        RateLimitingSettings(enabled=True, requests_per_minute=1, **{"burst_size": 10} | keys), timeout_s=1.0
    )
    grants = [limiter.grant(principal, "192.0.2.1") for _ in range(100)]
    outcomes = await asyncio.gather(*(grant.enter() for grant in grants), return_exceptions=True)
    return sum(outcome is None for outcome in outcomes)


@key("rate_limiting.key_share", "rate_limiting.tiers", "rate_limiting.replicas")
async def test_shares_tiers_and_replicas_change_who_may_do_how_much() -> None:
    ann = Principal("ann", tenant="acme", key_id="a", tier="gold")
    assert await n_admitted(ann) == 10
    assert await n_admitted(ann, key_share=0.5) == 5
    assert await n_admitted(ann, tiers={"gold": {"burst_size": 30}, "iron": {"burst_size": 1}}) == 30
    assert await n_admitted(ann, replicas=5) == 2


@key("api.trusted_proxies")
@pytest.mark.parametrize(("trusted", "n_callers"), [(["127.0.0.0/8"], 2), ([], 1), (["10.0.0.1"], 1)])
async def test_only_a_trusted_proxy_says_who_calls(trusted: list[str], n_callers: int) -> None:
    limits = {"enabled": True, "requests_per_minute": 1, "burst_size": 1}
    async with serving(api={"trusted_proxies": trusted}, rate_limiting=limits) as client:
        answers = [
            await client.get("/adapters", headers={"x-forwarded-for": f"192.0.2.{i}"}) for i in (1, 2, 1, 2)
        ]
    assert [answer.status_code for answer in answers].count(200) == n_callers


@key("redis.url")
async def test_gateways_with_one_redis_share_the_limits() -> None:
    skip_without("redis-server")
    server = plain_server()
    try:
        sections: Any = {
            "rate_limiting": {"enabled": True, "requests_per_minute": 1, "burst_size": 3},
            "redis": {"url": server.url, "timeout": 5},
        }
        async with serving(**sections) as one, serving(**sections) as other:
            answers = [await client.get("/adapters") for _ in range(3) for client in (one, other)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429, 429]
    finally:
        server.close()


@key("redis.timeout")
@pytest.mark.parametrize(("timeout_s", "answers"), [(0.05, False), (5.0, True)])
async def test_a_command_is_given_up_after_the_time_limit(timeout_s: float, answers: bool) -> None:
    skip_without("redis-server")
    server = plain_server()
    redis = Redis(RedisSettings(url=SecretStr(server.url), timeout=timeout_s))
    try:
        waiting = redis.call(lambda client: client.blpop([PREFIX + "never"], timeout=0.5))
        if answers:
            assert await waiting is None
        else:
            with pytest.raises(RedisUnavailable):
                await waiting
    finally:
        await redis.close()
        server.close()


@key("redis.ca_file")
async def test_a_certificate_is_trusted_if_its_file_says_so(tmp_path: Path) -> None:
    skip_without("redis-server")
    server, url, ca_file = encrypted_server(tmp_path)
    try:
        assert await answers(RedisSettings(url=SecretStr(url), timeout=5, ca_file=ca_file))
        assert not await answers(RedisSettings(url=SecretStr(url), timeout=5))
    finally:
        server.close()


@key("redis.sentinels")
async def test_the_sentinels_say_where_the_primary_is(tmp_path: Path) -> None:
    skip_without("redis-sentinel")
    group = SentinelGroup()
    try:
        url = SecretStr(f"redis://{group.name}/0")
        assert await answers(RedisSettings(url=url, timeout=5, sentinels=group.addresses))
        with closing(group.primary.client()) as primary:  # the Sentinels do not know this user
            primary.execute_command("ACL", "SETUSER", "gateway", "on", ">in a file", "~*", "+@all")
        (path := tmp_path / "password").write_text("in a file")
        url = SecretStr(f"redis://gateway@{group.name}/0")
        keys: Any = {"url": url, "timeout": 5, "sentinels": group.addresses}
        assert await answers(RedisSettings(**keys, password_file=path))
        assert not await answers(RedisSettings(**keys))
    finally:
        group.close()


def test_sentinels_without_the_name_of_what_they_guard_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"redis\.url is not"):
        create_app(settings_of(redis={"sentinels": ["10.0.0.1:26379"]}))


async def answers(settings: RedisSettings) -> bool:
    redis = Redis(settings)
    try:
        return bool(await redis.call(lambda client: client.set(PREFIX + "test", 1)))
    except RedisUnavailable:
        return False
    finally:
        await redis.close()
