"""Turns and refusals, on a clock of the test's own where time matters."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from adaptive_lora.errors import DeadlineExceeded, EngineNotReady, Overloaded, RateLimited
from adaptive_lora.serving.admission.priority import Priority
from adaptive_lora.serving.admission.queues import TenantQueues
from adaptive_lora.serving.admission.turn import Turn
from adaptive_lora.serving.admission.window import Size
from adaptive_lora.settings import QueueSettings
from adaptive_lora.telemetry.queue import QueueMetrics
from tests.serving.cache.conftest import settle

TOKENS = 100
NEVER = float("inf")


class Desk:
    """Queues before an engine that runs one at a time, and a clock that stands still unless told."""

    def __init__(self, **keys: object) -> None:
        self.registry = CollectorRegistry()
        self.now = 0.0
        self.queues = TenantQueues(
            QueueSettings.model_validate(keys), lambda: Size(1, 1), QueueMetrics(self.registry)
        )
        self.inside: list[object] = []
        self.waiting: list[object] = []

    def turn(
        self,
        tenant: str = "a",
        *,
        priority: Priority = "interactive",
        deadline: float = NEVER,
        tier: str = "default",
        adapter_id: str | None = None,
    ) -> Turn:
        return self.queues.turn(
            tenant, tier=tier, priority=priority, n_tokens=TOKENS, deadline=deadline, adapter_id=adapter_id
        )

    def come(self, tenant: str = "a", **keys: object) -> object:
        """Join; raises what refuses."""
        ticket, _ = self.queues.join(self.turn(tenant, **keys), self.now)  # type: ignore[arg-type]
        (self.inside if ticket.is_inside else self.waiting).append(ticket)
        return ticket

    def serve(self, n: int, *, seconds_each: float = 0.5) -> None:
        """`n` requests end, one after another."""
        for _ in range(n):
            self.now += seconds_each
            ticket = self.inside.pop()
            self.queues.leave(ticket, TOKENS, self.now)  # type: ignore[arg-type]
            let_in = [each for each in self.waiting if each.is_inside]  # type: ignore[attr-defined]
            self.waiting = [each for each in self.waiting if each not in let_in]
            self.inside += let_in

    def refused(self, reason: str) -> float:
        return self.registry.get_sample_value("queue_refused_total", {"reason": reason}) or 0.0

    def gauge(self, name: str, priority: Priority) -> float:
        return self.registry.get_sample_value(name, {"priority": priority}) or 0.0


@pytest.fixture
async def desk() -> Desk:
    return Desk()


@pytest.fixture
async def warm() -> Desk:
    """It is known that a request takes half a second: 200 tokens a second. One is inside."""
    desk = Desk()
    for _ in range(25):
        desk.come("b")
    desk.serve(24)
    assert desk.queues._rate.tokens_per_s == pytest.approx(200)
    assert (len(desk.inside), len(desk.waiting)) == (1, 0)
    return desk


async def test_a_cold_estimate_refuses_nobody(desk: Desk) -> None:
    for _ in range(100):
        desk.come(deadline=0.001)
    desk.serve(1)
    desk.come(deadline=0.001)
    assert len(desk.queues) == 99


async def test_whose_own_requests_would_take_too_long_gets_429(warm: Desk) -> None:
    for _ in range(10):
        warm.come()
    warm.come(deadline=warm.now + 5.1)
    with pytest.raises(RateLimited) as refused:
        warm.come(deadline=warm.now + 5.0)
    assert refused.value.retry_after_s == pytest.approx(0.5)
    assert warm.refused("tenant_wait") == 1
    assert len(warm.queues) == 11, "who is refused leaves nothing behind"


async def test_whom_others_would_make_wait_too_long_gets_503(warm: Desk) -> None:
    """Twenty tenants with a request each, who came first."""
    for i in range(20):
        warm.come(f"other {i}")
    with pytest.raises(Overloaded) as refused:
        warm.come(deadline=warm.now + 8.0)
    assert refused.value.retry_after_s == pytest.approx(2.0)
    assert warm.refused("system_wait") == 1
    warm.come(deadline=warm.now + 10.1)


async def test_a_flood_is_its_own_trouble_and_nobody_elses(warm: Desk) -> None:
    for _ in range(200):
        warm.come("flood")
    warm.serve(10)
    warm.come("light", deadline=warm.now + 1.0)
    with pytest.raises(RateLimited):
        warm.come("flood", deadline=warm.now + 1.0)
    warm.serve(2)
    assert not any(t.line.tenant == "light" for t in warm.waiting)  # type: ignore[attr-defined]


async def test_when_to_come_back_is_true(warm: Desk) -> None:
    """Then the same request is admitted, if nobody else has come in between."""
    for _ in range(40):
        warm.come()
    with pytest.raises(RateLimited) as refused:
        warm.come(deadline=warm.now + 3.0)
    n_served = round(refused.value.retry_after_s / 0.5)
    warm.serve(n_served - 1)
    with pytest.raises(RateLimited):
        warm.come(deadline=warm.now + 3.0)
    warm.serve(1)
    warm.come(deadline=warm.now + 3.0)


async def test_a_line_has_an_end() -> None:
    desk = Desk(max_per_tenant=3)
    for _ in range(4):
        desk.come()
    with pytest.raises(RateLimited, match="3 of your requests are waiting") as refused:
        desk.come()
    assert refused.value.retry_after_s == 1.0, "nothing better is known"
    assert desk.refused("tenant_full") == 1
    desk.come("b")
    for _ in range(10):
        desk.come(priority="batch")
    desk.serve(2)  # the other tenant's turn was the first
    desk.come()


async def test_low_priority_waits_and_is_never_refused(warm: Desk) -> None:
    for _ in range(300):
        warm.come("batches", priority="batch", deadline=warm.now + 1.0)
    assert warm.gauge("queue_waiting", "batch") == 300
    ticket = warm.come("a", deadline=warm.now + 1.0)
    warm.serve(1)
    assert ticket in warm.inside, "before all of them"
    assert warm.gauge("queue_inside", "interactive") == 1
    warm.serve(1)
    assert warm.gauge("queue_inside", "batch") == 1


async def test_the_rate_is_not_that_of_batch_work(warm: Desk) -> None:
    """It is let in only as far as there is room to spare: what it gets says little about what is there."""
    for _ in range(100):
        warm.come("batches", priority="batch")
    warm.serve(100, seconds_each=50.0)
    assert warm.queues._rate.tokens_per_s == pytest.approx(200)


async def test_tiers_have_weights() -> None:
    desk = Desk(weights={"gold": 3})
    desk.come("a")
    for _ in range(40):
        desk.come("a")
        desk.come("b", tier="gold")
    order = []
    for _ in range(40):
        desk.serve(1)
        order.append(desk.inside[0].line.tenant)  # type: ignore[attr-defined]
    assert 29 <= order.count("b") <= 31


# With the event loop's clock.


class Caller:
    """Enters in a task of its own, and stays inside until told."""

    def __init__(self, turn: Turn) -> None:
        self.is_inside = False
        self._go = asyncio.Event()
        self._turn = turn
        self.task = asyncio.create_task(self._run())

    async def leave(self) -> None:
        self._go.set()
        await self.task

    async def _run(self) -> None:
        try:
            await self._turn.enter()
            self.is_inside = True
            await self._go.wait()
        finally:
            self._turn.leave(TOKENS)


def the_time() -> float:
    return asyncio.get_running_loop().time()


async def test_one_after_another(desk: Desk) -> None:
    callers = [Caller(desk.turn()) for _ in range(3)]
    await settle()
    for i, caller in enumerate(callers):
        assert [each.is_inside for each in callers] == [j <= i for j in range(3)]
        await caller.leave()
        await settle()
    assert len(desk.queues) == 0
    waits = desk.registry.get_sample_value("queue_wait_seconds_count", {"priority": "interactive"})
    assert waits == 3


async def test_who_goes_away_leaves_its_place(desk: Desk) -> None:
    first, second, third = (Caller(desk.turn()) for _ in range(3))
    await settle()
    second.task.cancel()
    await settle()
    assert len(desk.queues) == 1
    await first.leave()
    await settle()
    assert third.is_inside


async def test_who_goes_away_in_the_very_moment_of_its_turn_passes_it_on(desk: Desk) -> None:
    first, second, third = (Caller(desk.turn()) for _ in range(3))
    await settle()
    first._turn.leave(TOKENS)  # the second one's turn has come, and it does not know yet
    assert second._turn._ticket is not None
    assert second._turn._ticket.is_inside
    second.task.cancel()
    await settle()
    assert not second.is_inside
    assert third.is_inside


async def test_the_deadline_ends_the_wait(desk: Desk) -> None:
    first = Caller(desk.turn())
    await settle()
    late = Caller(desk.turn(deadline=the_time() + 0.01))
    with pytest.raises(DeadlineExceeded):
        await late.task
    assert len(desk.queues) == 0
    assert desk.refused("deadline") == 1
    await first.leave()


async def test_closing_tells_who_waits_and_who_comes(desk: Desk) -> None:
    first = Caller(desk.turn())
    waiting = Caller(desk.turn())
    await settle()
    desk.queues.close()
    for caller in (waiting, Caller(desk.turn())):
        with pytest.raises(EngineNotReady):
            await caller.task
    assert first.is_inside
    await first.leave()
    assert len(desk.queues) == 0


async def test_an_adapter_is_free_when_nobody_waits_for_it_or_runs(desk: Desk) -> None:
    callers = [Caller(desk.turn(adapter_id=adapter_id)) for adapter_id in ("x", "y", "x")]
    await settle()
    gone = {name: asyncio.create_task(desk.queues.users.gone(name)) for name in "xyz"}
    for n_left, free in ((3, "z"), (2, "z"), (1, "yz"), (0, "xyz")):
        await settle()
        assert "".join(name for name, task in gone.items() if task.done()) == free
        if n_left:
            await callers[3 - n_left].leave()
