"""Who is charged what, and what happens to limits while Redis is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from starlette.types import Message, Receive, Scope, Send

from adaptive_lora.errors import AdaptiveLoraError, BudgetSpent, InvalidRequest, RateLimited
from adaptive_lora.serving.addresses import ClientAddresses
from adaptive_lora.serving.context import new_context
from adaptive_lora.serving.principal import ANYBODY, Principal
from adaptive_lora.serving.quotas.headers import retry_headers
from adaptive_lora.serving.quotas.limiter import Grant, Limiter
from adaptive_lora.serving.quotas.middleware import RateLimits
from adaptive_lora.serving.quotas.shared import SharedLedger
from adaptive_lora.serving.quotas.tiers import network_of
from adaptive_lora.serving.redis import Redis
from adaptive_lora.settings import RateLimitingSettings, RedisSettings
from adaptive_lora.telemetry.limits import LimitMetrics
from tests.redis_servers import RedisServer
from tests.serving.conftest import until

ANN = Principal("ann", tenant="acme", key_id="a")
BOB = Principal("bob", tenant="acme", key_id="b")
EVE = Principal("eve", tenant="other", key_id="e")


class Clock:
    def __init__(self, *date: int) -> None:
        self.now = datetime(*(date or (2026, 11, 26)), tzinfo=UTC).timestamp()  # type: ignore[misc]

    def __call__(self) -> float:
        return self.now


def limiter_of(clock: Clock | None = None, **keys: Any) -> Limiter:
    shared, metrics = keys.pop("shared", None), keys.pop("metrics", None)
    settings = RateLimitingSettings.model_validate({"enabled": True} | keys)
    return Limiter(settings, timeout_s=60.0, shared=shared, metrics=metrics, clock=clock or Clock())


async def entered(limiter: Limiter, principal: Principal = ANN, address: str = "192.0.2.1") -> Grant:
    grant = limiter.grant(principal, address)
    await grant.enter()
    return grant


async def n_admitted(limiter: Limiter, principal: Principal = ANN, address: str = "192.0.2.1") -> int:
    """How many requests one after the other, of a hundred."""
    for n in range(100):
        try:
            (await entered(limiter, principal, address)).leave()
        except RateLimited:
            return n
    return 100


async def use(grant: Grant, n_reserved: int, n_spent: int) -> None:
    async with grant.tokens(n_reserved) as reservation:
        reservation.spend(n_spent)


def header(grant: Grant, name: str) -> int:
    return int(dict(grant.headers())[f"x-ratelimit-{name}".encode()])


async def test_keys_of_a_tenant_share_its_limits_and_tenants_share_nothing() -> None:
    limiter = limiter_of(requests_per_minute=1, burst_size=10)
    assert await n_admitted(limiter, ANN) == 10
    assert await n_admitted(limiter, BOB) == 0
    assert await n_admitted(limiter, EVE) == 10


async def test_a_key_may_be_kept_from_using_up_its_tenants_limits() -> None:
    limiter = limiter_of(requests_per_minute=1, burst_size=10, key_share=0.7)
    assert await n_admitted(limiter, ANN) == 7
    assert await n_admitted(limiter, BOB) == 3


async def test_names_that_look_alike_when_joined_are_different_keys() -> None:
    limiter = limiter_of(requests_per_minute=1, burst_size=2, key_share=0.5)
    assert await n_admitted(limiter, Principal("x", tenant="a:b", key_id="c")) == 1
    assert await n_admitted(limiter, Principal("x", tenant="a", key_id="b:c")) == 1


async def test_nobody_in_particular_is_an_address() -> None:
    limiter = limiter_of(requests_per_minute=1, burst_size=3)
    assert await n_admitted(limiter, ANYBODY, "192.0.2.1") == 3
    assert await n_admitted(limiter, ANYBODY, "192.0.2.2") == 3
    assert await n_admitted(limiter, ANYBODY, "192.0.2.1") == 0
    named = Principal(ANYBODY.subject, tenant="acme")
    assert await n_admitted(limiter, named, "192.0.2.3") == 3
    assert await n_admitted(limiter, named, "192.0.2.4") == 0


def test_an_ipv6_caller_has_64_bits_of_addresses() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1")
    assert network_of("2001:db8::1") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1")
    assert network_of("unknown") == network_of("") == "unknown"


async def test_an_unknown_tier_has_the_default_limits_and_is_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limiter = limiter_of(requests_per_minute=1, burst_size=3, tiers={"gold": {"burst_size": 50}})
    assert await n_admitted(limiter, Principal("x", tenant="x", tier="golden")) == 3
    assert await n_admitted(limiter, Principal("y", tenant="y", tier="gold")) == 50
    assert caplog.text.count("golden") == 1


async def test_null_in_a_tier_is_no_limit() -> None:
    limiter = limiter_of(requests_per_minute=1, burst_size=3, tiers={"all": {"requests_per_minute": None}})
    assert await n_admitted(limiter, Principal("x", tenant="x", tier="all")) == 100
    assert (await entered(limiter, Principal("x", tenant="x", tier="all"))).headers() == []


async def test_tokens_are_reserved_and_what_is_not_spent_is_given_back() -> None:
    limiter = limiter_of(tokens_per_minute=1_000)
    grant = await entered(limiter)
    assert header(grant, "remaining-tokens") == 1_000
    async with grant.tokens(800) as reservation:
        assert header(grant, "remaining-tokens") == 200
        with pytest.raises(RateLimited) as refused:
            await use(await entered(limiter), 201, 0)
        assert refused.value.retry_after_s == pytest.approx(60 * 1 / 1_000)
        reservation.spend(100)
        reservation.spend(50)
    assert header(await entered(limiter), "remaining-tokens") == 850


async def test_a_generation_that_fails_costs_what_it_has_used() -> None:
    limiter = limiter_of(tokens_per_minute=1_000, tokens_per_month=10_000)
    grant = await entered(limiter)
    with suppress(ZeroDivisionError):
        async with grant.tokens(800) as reservation:
            reservation.spend(10)
            raise ZeroDivisionError
    assert header(await entered(limiter), "remaining-tokens") == 990


async def test_what_is_used_beyond_the_reservation_is_a_debt() -> None:
    clock = Clock()
    limiter = limiter_of(clock, tokens_per_minute=600)
    await use(await entered(limiter), 100, 630)
    with pytest.raises(RateLimited) as refused:
        await entered(limiter)
    assert refused.value.retry_after_s == pytest.approx(3.0)
    clock.now += refused.value.retry_after_s
    await entered(limiter)


async def test_more_than_could_ever_be_allowed_is_not_to_be_tried_again() -> None:
    for limits in ({"tokens_per_minute": 100}, {"tokens_per_month": 100}):
        limiter = limiter_of(**limits)
        with pytest.raises(InvalidRequest, match="100 are allowed at most"):
            await use(await entered(limiter), 101, 0)
        await use(await entered(limiter), 100, 0)


async def test_a_budget_lasts_until_the_end_of_its_month() -> None:
    clock = Clock(2026, 12, 31, 23, 59, 30)
    limiter = limiter_of(clock, tokens_per_month=1_000)
    await use(await entered(limiter), 500, 400)
    await use(await entered(limiter), 600, 600)
    with pytest.raises(BudgetSpent) as refused:
        await use(await entered(limiter), 1, 1)
    assert refused.value.retry_after_s == pytest.approx(30.0)
    clock.now += refused.value.retry_after_s
    await use(await entered(limiter), 1_000, 1_000)


async def test_places_are_given_back_by_whom_they_were_given_to() -> None:
    limiter = limiter_of(requests_per_minute=None, max_concurrent=2)
    first, second = await entered(limiter), await entered(limiter)
    for _ in range(3):
        with pytest.raises(RateLimited, match="in flight"):
            await entered(limiter)
    first.leave()
    first.leave()
    third = await entered(limiter)
    with pytest.raises(RateLimited):
        await entered(limiter)
    second.leave()
    third.leave()
    assert await n_admitted(limiter) == 100


async def test_the_wait_is_that_of_what_must_be_waited_for_longest() -> None:
    clock = Clock()
    limiter = limiter_of(clock, requests_per_minute=60, burst_size=1, tokens_per_minute=60, token_burst=100)
    await use(await entered(limiter), 100, 110)
    with pytest.raises(RateLimited, match="tokens a minute") as refused:
        await entered(limiter)
    assert refused.value.retry_after_s == pytest.approx(10.0)
    assert retry_headers(refused.value)["retry-after"] == "10"


def test_seconds_are_rounded_up_and_a_long_wait_is_not_to_be_tried() -> None:
    short = retry_headers(RateLimited("", retry_after_s=0.0121))
    assert short == {"retry-after": "1", "retry-after-ms": "13"}
    assert retry_headers(BudgetSpent("", retry_after_s=86_400.0))["x-should-retry"] == "false"


async def test_metrics_count_refusals_by_reason() -> None:
    registry = CollectorRegistry()
    limiter = limiter_of(
        requests_per_minute=1, burst_size=2, tokens_per_minute=10, metrics=LimitMetrics(registry)
    )
    grant = await entered(limiter)
    await use(grant, 10, 10)
    with pytest.raises(RateLimited):
        await use(grant, 10, 10)
    assert await n_admitted(limiter) == 1
    count = registry.get_sample_value
    assert count("rate_limited_total", {"reason": "tokens"}) == 1
    assert count("rate_limited_total", {"reason": "requests"}) == 1
    assert count("rate_limit_checks_total", {"where": "own"}) == 5


@asynccontextmanager
async def sharing(
    server: RedisServer, n_gateways: int, timeout_s: float = 5.0, **keys: Any
) -> AsyncIterator[list[Limiter]]:
    """Gateways with connections of their own. Their rates are too slow to give anything back in a test."""
    connections = [
        Redis(RedisSettings(url=SecretStr(server.url), timeout=timeout_s)) for _ in range(n_gateways)
    ]
    limiters = [
        limiter_of(shared=SharedLedger(redis), **{"requests_per_minute": 1} | keys) for redis in connections
    ]
    try:
        yield limiters
    finally:
        for limiter in limiters:
            await limiter.close()
        for redis in connections:
            await redis.close()


async def test_gateways_share_what_a_tenant_may_do(redis_server: RedisServer) -> None:
    async with sharing(redis_server, 3, burst_size=40, key_share=0.5) as limiters:
        assert [await n_admitted(limiter, ANN) for limiter in limiters] == [20, 0, 0]
        assert [await n_admitted(limiter, BOB) for limiter in reversed(limiters)] == [20, 0, 0]
        assert await n_admitted(limiters[1], EVE) == 20


async def outage(server: RedisServer, limiters: list[Limiter]) -> None:
    """Until every gateway has noticed."""
    server.freeze()
    for limiter in limiters:
        while limiter._shared is not None and limiter._shared.is_up:
            await asyncio.gather(entered(limiter, EVE), return_exceptions=True)


async def recovery(server: RedisServer, limiters: list[Limiter]) -> None:
    server.thaw()
    for limiter in limiters:
        await settled(limiter)


async def settled(limiter: Limiter) -> None:
    """Until Redis answers, and has what was given back."""
    shared = limiter._shared
    assert shared is not None
    await until(lambda: shared.is_up)
    await until(lambda: shared._flushing is None or shared._flushing.done())


async def test_while_redis_is_away_each_gateway_allows_its_part(redis_server: RedisServer) -> None:
    async with sharing(redis_server, 4, timeout_s=0.25, burst_size=40, replicas=4) as limiters:
        await outage(redis_server, limiters)
        assert [await n_admitted(limiter) for limiter in limiters] == [10] * 4
        await recovery(redis_server, limiters)


async def test_an_outage_brings_nobody_a_second_burst(redis_server: RedisServer) -> None:
    async with sharing(redis_server, 1, timeout_s=0.5, burst_size=30) as (limiter,):
        n_before = await n_admitted(limiter)
        await outage(redis_server, [limiter])
        assert n_before + await n_admitted(limiter) <= 30
        await recovery(redis_server, [limiter])


async def test_a_budget_is_kept_through_an_outage_and_counted_after_it(redis_server: RedisServer) -> None:
    keys: dict[str, Any] = {"requests_per_minute": None, "tokens_per_month": 1_000, "replicas": 2}
    async with sharing(redis_server, 2, timeout_s=0.5, **keys) as limiters:
        first, second = limiters
        await use(await entered(first), 700, 600)
        for limiter in limiters:  # what each knows last
            await use(await entered(limiter), 10, 0)
        # Entering asks Redis for nothing here: only tokens are limited.
        redis_server.freeze()
        for limiter in limiters:
            await asyncio.gather(use(await entered(limiter, EVE), 1, 0), return_exceptions=True)
        spent = 0
        for limiter in limiters:
            while True:
                try:
                    await use(await entered(limiter), 50, 50)
                except AdaptiveLoraError:
                    break
                spent += 50
        assert 300 <= spent <= 400  # each half of what it knew to be left, and no more together
        await recovery(redis_server, limiters)
        left = 1_000 - 600 - spent
        if left:
            await use(await entered(first), left, 0)
        with pytest.raises(AdaptiveLoraError):
            await use(await entered(second), left + 1, 0)


async def test_what_redis_has_given_back_does_not_grow_in_an_outage(redis_server: RedisServer) -> None:
    """Known from Redis a token counts once, however many gateways there are: also when it is given back."""
    keys: dict[str, Any] = {"requests_per_minute": None, "tokens_per_month": 10_000, "replicas": 10}
    async with sharing(redis_server, 1, **keys) as (limiter,):
        await use(await entered(limiter), 9_000, 9_000)
        await use(await entered(limiter), 900, 100)
        redis_server.stop()
        await use(await entered(limiter, EVE), 1, 0)  # finds out
        with pytest.raises(BudgetSpent):  # of the 900 that are left, ten gateways have 90 each
            await use(await entered(limiter), 91, 0)
        await use(await entered(limiter), 90, 0)
        redis_server.start()
        await settled(limiter)


async def test_a_place_that_redis_gave_to_nobody_is_given_back(redis_server: RedisServer) -> None:
    """It takes the script when it goes on, and nobody waits for the answer any more."""
    keys: dict[str, Any] = {"requests_per_minute": None, "max_concurrent": 1}
    async with sharing(redis_server, 1, timeout_s=0.5, **keys) as (limiter,):
        (await entered(limiter)).leave()
        await quiet()
        assert limiter._shared is not None
        limiter._shared._ahead_us = None  # as after a failure: the script has no time by which it must run
        redis_server.freeze()
        (await entered(limiter)).leave()  # on its own part of the limit
        await recovery(redis_server, [limiter])
        (await entered(limiter)).leave()


async def test_a_place_is_free_before_the_last_byte_is_sent() -> None:
    """The caller's next request may be at another gateway in no time."""
    limiter = limiter_of(requests_per_minute=None, max_concurrent=1)
    was_free: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for more_body in (True, False):
            await send({"type": "http.response.body", "body": b"x", "more_body": more_body})

    async def send(message: Message) -> None:
        was_free.append(await n_admitted(limiter, ANYBODY) > 0)

    async def receive() -> Message:
        raise AssertionError

    scope: Scope = {"type": "http", "path": "/", "headers": [], "client": ("192.0.2.1", 1)}
    new_context(scope)
    await RateLimits(app, limiter=limiter, addresses=ClientAddresses())(scope, receive, send)
    assert was_free == [False, True]


async def test_a_caller_that_leaves_while_redis_answers_costs_nothing(redis_server: RedisServer) -> None:
    keys: dict[str, Any] = {"requests_per_minute": None, "max_concurrent": 1, "tokens_per_month": 100}
    async with sharing(redis_server, 2, **keys) as (limiter, other):

        async def request(limiter: Limiter) -> None:
            grant = await entered(limiter)
            try:
                await use(grant, 100, 0)
            finally:
                grant.leave()

        n_steps = 0
        while True:  # one is cancelled after each number of steps
            task = asyncio.create_task(request(limiter))
            for _ in range(n_steps):
                await asyncio.sleep(0)
            if task.done():
                break
            task.cancel()
            await quiet()
            await request(other)
            await quiet()
            n_steps += 1
        assert n_steps > 10


async def quiet() -> None:
    """Until no task runs but the test's, and no callback starts another."""
    n_idle = 0
    while n_idle < 5:
        await asyncio.sleep(0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        n_idle = 0 if others else n_idle + 1
        if others:
            await asyncio.wait(others)
