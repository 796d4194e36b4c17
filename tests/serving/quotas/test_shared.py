"""Limits in a real Redis: the same results as in one process, on a clock of the test's own; several gateways;
and what happens while it is away."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from adaptive_lora.errors import RedisUnavailable
from adaptive_lora.serving.quotas import lua, shared
from adaptive_lora.serving.quotas.checks import EPOCH_S, BudgetCheck, Check, LeaseCheck
from adaptive_lora.serving.quotas.ledger import Ledger, Refund
from adaptive_lora.serving.quotas.shared import SharedLedger
from adaptive_lora.serving.redis import PREFIX, Redis
from adaptive_lora.settings import RedisSettings
from tests.redis_servers import RedisServer, a_server, encrypted_server, skip_without
from tests.serving.conftest import until
from tests.serving.quotas.test_rates import NOW, rate


class TestClock:
    """A clock that stands in Redis until it is set."""

    __test__ = False
    READ = "redis.call('MGET', 'clock:s', 'clock:us')"

    def __init__(self, server: RedisServer) -> None:
        self._client = server.client()
        self.set(NOW)

    def set(self, now_us: float) -> None:
        whole = int(now_us)
        self._client.mset({"clock:s": whole // 1_000_000 + EPOCH_S, "clock:us": whole % 1_000_000})
        self.now_us = float(whole)

    def advance(self, us: float) -> None:
        self.set(self.now_us + us)

    def flush(self) -> None:
        self._client.flushall()
        self.set(NOW)

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    yield from a_server()


@pytest.fixture
def clock(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClock]:
    """The scripts with another clock, and with keys that outlast a pause of the machine."""
    for name in ("TAKE", "SETTLE"):
        script = getattr(lua, name)
        for found, put in (("redis.call('TIME')", TestClock.READ), (f"+ {lua.KEEP_MS}\n", "+ 600000\n")):
            assert found in script
            script = script.replace(found, put)
        monkeypatch.setattr(shared, name, script)
    clock = TestClock(server)
    clock.flush()
    yield clock
    clock.close()


@asynccontextmanager
async def connected(server: RedisServer, timeout_s: float = 5.0) -> AsyncIterator[SharedLedger]:
    redis = Redis(RedisSettings(url=SecretStr(server.url), timeout=timeout_s))
    ledger = SharedLedger(redis)
    try:
        yield ledger
    finally:
        await ledger.close()
        await redis.close()


async def settled(ledger: SharedLedger) -> None:
    """Everything that was given back has arrived."""
    await until(lambda: ledger._flushing is None or ledger._flushing.done())


CHECKS = st.lists(
    st.one_of(
        st.builds(
            rate, st.integers(1, 100_000), st.integers(1, 50), st.integers(0, 60), st.sampled_from("ab")
        ),
        st.builds(BudgetCheck, st.just("c"), st.integers(0, 60), st.integers(1, 500), st.just(60e6)),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda check: check.key,
)
STEPS = st.lists(
    st.tuples(st.one_of(st.just(0), st.integers(1, 4_000_000)), CHECKS, st.integers(-30, 60)), max_size=25
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS)
def test_redis_and_python_count_alike(
    server: RedisServer, clock: TestClock, steps: list[tuple[int, list[Check], int]]
) -> None:
    """To the last bit of every reading, but that Redis forgets what is full."""

    async def compare() -> None:
        clock.flush()
        own = Ledger()
        async with connected(server) as ledger:
            for step_us, checks, back in steps:
                clock.advance(step_us)
                expected = own.take(checks, clock.now_us)
                verdict = await ledger.take(checks)
                assert verdict.now_us == clock.now_us
                assert verdict.readings == expected.readings
                assert verdict.denied == expected.denied
                if back and not verdict.denied:
                    refunds = [Refund(check, min(back, check.n)) for check in checks if _has_n(check)]
                    own.give_back(refunds, clock.now_us)
                    ledger.give_back(refunds)
                    await settled(ledger)

    asyncio.run(compare())


async def test_a_debt_begins_now_however_long_ago_the_account_was_full(
    server: RedisServer, clock: TestClock
) -> None:
    own, check = Ledger(), rate(60, 10)
    async with connected(server) as ledger:
        for step_us, refund in ((0, None), (4e6, Refund(check, -20)), (0, None)):
            clock.advance(step_us)
            if refund is None:
                assert (await ledger.take([check])).readings == own.take([check], clock.now_us).readings
            else:
                own.give_back([refund], clock.now_us)
                ledger.give_back([refund])
                await settled(ledger)
        verdict = await ledger.take([check])
        assert verdict.retry_after_us(check) == own.take([check], clock.now_us).retry_after_us(check) == 11e6


def _has_n(check: Check) -> bool:
    return not isinstance(check, LeaseCheck)


async def test_gateways_together_admit_what_one_would(server: RedisServer, clock: TestClock) -> None:
    """Eight connections of their own, each with more requests in flight than it is allowed."""
    check = rate(600, 25)
    admitted = 0
    async with (
        connected(server) as a, connected(server) as b, connected(server) as c, connected(server) as d
    ):  # fmt: skip
        for _ in range(20):
            verdicts = await asyncio.gather(*(each.take([check]) for each in (a, b, c, d) for _ in range(15)))
            admitted += sum(not verdict.denied for verdict in verdicts)
            clock.advance(500_000)
    assert admitted == 25 + 19 * 5


async def test_places_are_shared_given_back_and_lost_by_the_dead(
    server: RedisServer, clock: TestClock
) -> None:
    leases = [LeaseCheck("places", str(i), 2, 3e6) for i in range(5)]
    async with connected(server) as mine, connected(server) as other:
        assert not (await mine.take([leases[0]])).denied
        assert not (await other.take([leases[1]])).denied
        assert (await mine.take([leases[2]])).denied
        other.give_back([Refund(leases[1])])
        await settled(other)
        assert not (await mine.take([leases[2]])).denied
        assert (await mine.take([leases[3]])).denied
        clock.advance(4e6)
        assert not (await other.take([leases[3]])).denied


async def test_budgets_in_flight_are_never_overspent(server: RedisServer, clock: TestClock) -> None:
    """Four gateways reserve and give back at random, each at its own pace."""
    limit, spent, flying, worst = 5_000, 0, 0, 0
    chance = random.Random(1)

    async def gateway(ledger: SharedLedger) -> None:
        nonlocal spent, flying, worst
        for _ in range(60):
            n = chance.randint(1, 300)
            check = BudgetCheck("month", n, limit, 60e6)
            if (await ledger.take([check])).denied:
                continue
            flying += n
            worst = max(worst, spent + flying)
            await asyncio.sleep(0)
            used = chance.randint(0, n)
            flying -= n
            spent += used
            ledger.give_back([Refund(check, n - used)])

    async with (
        connected(server) as a, connected(server) as b, connected(server) as c, connected(server) as d
    ):  # fmt: skip
        await asyncio.gather(*map(gateway, (a, b, c, d)))
        for each in (a, b, c, d):
            await settled(each)
        assert worst <= limit
        assert spent <= limit
        left = BudgetCheck("month", 0, limit, 60e6)
        assert (await a.take([left])).readings == (spent,)
        assert not (await a.take([BudgetCheck("month", limit - spent, limit, 60e6)])).denied


async def test_a_batch_that_is_delivered_twice_counts_once(server: RedisServer, clock: TestClock) -> None:
    check = BudgetCheck("month", 100, 1_000, 60e6)
    async with connected(server) as ledger:
        await ledger.take([check])
        batch = shared._Batch()
        batch.add(Refund(check, 40))
        arguments = batch.script_arguments()
        await ledger._deliver(*arguments)
        await ledger._deliver(*arguments)
        assert (await ledger.take([check])).readings == (60.0,)


async def test_what_is_given_back_during_an_outage_arrives_after_it(redis_server: RedisServer) -> None:
    check, lease = BudgetCheck("month", 100, 1_000, 60e6), LeaseCheck("places", "a", 1, 600e6)
    async with connected(redis_server, timeout_s=0.25) as ledger:
        await until_taken(ledger, [check, lease])
        redis_server.freeze()
        with pytest.raises(RedisUnavailable):
            await ledger.take([check])
        await asyncio.sleep(0.3)  # now Redis will not take it any more
        ledger.give_back([Refund(check, 70), Refund(lease)])
        ledger.give_back([Refund(check, -5)])
        assert not ledger.is_up
        redis_server.thaw()
        await until(lambda: ledger.is_up)
        await settled(ledger)
        verdict = await until_taken(ledger, [check, lease])
    assert verdict == (35.0, 0.0)


async def until_taken(ledger: SharedLedger, checks: list[Check]) -> tuple[float, ...]:
    """On a machine so busy that a quarter of a second is too short, again."""
    while True:
        try:
            return (await ledger.take(checks)).readings
        except RedisUnavailable:
            await until(lambda: ledger.is_up)


async def test_a_frozen_redis_does_not_take_later_what_was_given_up(redis_server: RedisServer) -> None:
    """It finds the scripts in its sockets when it goes on, long after their callers have gone."""
    lease = LeaseCheck("places", "a", 1, 600e6)
    async with connected(redis_server, timeout_s=0.25) as ledger:
        await until_taken(ledger, [rate(60, 10)])
        redis_server.freeze()
        with pytest.raises(RedisUnavailable):
            await ledger.take([lease])
        await asyncio.sleep(0.3)  # past the script's time
        redis_server.thaw()
        with redis_server.client() as client:
            assert client.zcard(PREFIX + "places") == 0
        await until(lambda: ledger.is_up)
        assert await until_taken(ledger, [lease]) == (0.0,)


async def test_real_time_is_the_servers(redis_server: RedisServer) -> None:
    async with connected(redis_server) as ledger:
        with redis_server.client() as client:
            before = client.time()
            verdict = await ledger.take([rate(60, 10)])
            after = client.time()
    assert before <= divmod(int(verdict.now_us) + EPOCH_S * 1_000_000, 1_000_000) <= after


async def test_what_is_full_is_forgotten(redis_server: RedisServer) -> None:
    async with connected(redis_server) as ledger:
        await ledger.take([rate(60, 10), BudgetCheck("month", 1, 10, 1e6), LeaseCheck("places", "a", 1, 5e6)])
        ledger.give_back([Refund(rate(60, 10), 1)])
        await settled(ledger)
        with redis_server.client() as client:
            keys = client.keys("*")
            assert len(keys) == 4
            assert all(0 < client.pttl(key) <= 86_402_000 for key in keys)


async def test_the_documented_rights_are_enough(tmp_path: Path) -> None:
    skip_without("redis-server")
    server, url, ca_file = encrypted_server(tmp_path)
    redis = Redis(RedisSettings(url=SecretStr(url), timeout=5.0, ca_file=ca_file))
    ledger = SharedLedger(redis)
    try:
        checks: list[Check] = [
            rate(60, 10), BudgetCheck("month", 5, 10, 1e6), LeaseCheck("places", "a", 1, 5e6)
        ]  # fmt: skip
        assert not (await ledger.take(checks)).denied
        ledger.give_back([Refund(check, 1) for check in checks])
        await settled(ledger)
        assert (await ledger.take(checks)).readings[1:] == (4.0, 0.0)
        assert ledger.is_up
    finally:
        await redis.close()
        server.close()


async def test_scripts_are_known_again_after_a_restart(redis_server: RedisServer) -> None:
    async with connected(redis_server) as ledger:
        await ledger.take([rate(60, 10)])
        redis_server.stop()
        redis_server.start()
        for _ in itertools.repeat(None, 3):
            try:
                await ledger.take([rate(60, 10)])
            except RedisUnavailable:
                await until(lambda: ledger.is_up)
        verdict = await ledger.take([rate(60, 10)])
    assert not verdict.denied
