"""The tenants' queues: whose turn it is to enter the engine, and who is told at once that it will not come.

`window` and `fair` decide the order; here are the clock, the tasks that wait, and the refusals:

    429 RateLimited       the tenant has too many waiting, or its own earlier requests take too long
    503 Overloaded        others' requests would be served before it until its deadline has passed
    504 DeadlineExceeded  it waited, and its deadline passed

The wait is predicted from the work ahead, in the order in which it will be done, and from the rate at which
work gets done. Until that rate is known nobody is refused for it. Work of priority "batch" is never refused:
it waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from adaptive_lora.errors import DeadlineExceeded, EngineNotReady, Overloaded, RateLimited
from adaptive_lora.serving.admission.fair import Ticket
from adaptive_lora.serving.admission.priority import PRIORITIES, Priority
from adaptive_lora.serving.admission.rate import ServiceRate
from adaptive_lora.serving.admission.users import Users
from adaptive_lora.serving.admission.window import Size, Window
from adaptive_lora.serving.principal import DEFAULT_TIER
from adaptive_lora.settings import QueueSettings
from adaptive_lora.telemetry.queue import QueueMetrics


class TenantQueues:
    """One gateway's. For one event loop."""

    def __init__(
        self, settings: QueueSettings, size: Callable[[], Size], metrics: QueueMetrics | None = None
    ) -> None:
        self._max_per_tenant = settings.max_per_tenant
        self._weights = settings.weights
        self._window = Window(size, batch_share=settings.batch_share)
        self._rate = ServiceRate()
        self._waiting: dict[Ticket, asyncio.Future[None]] = {}
        self._is_closed = False
        self.users = Users()
        self._metrics = metrics or QueueMetrics()
        self._metrics.watch_rate(lambda: self._rate.tokens_per_s or 0.0)
        for priority in PRIORITIES:
            self._metrics.watch(
                priority,
                n_waiting=partial(len, self._window.queues[priority]),
                n_inside=partial(self._window.n_inside.__getitem__, priority),
            )

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def turn(
        self,
        tenant: str,
        *,
        tier: str = DEFAULT_TIER,
        priority: Priority = "interactive",
        n_tokens: int,
        n_sequences: int = 1,
        adapter_id: str | None = None,
        deadline: float,
        ends_at: float | None = None,
    ) -> Turn:
        """For one generation. It does not queue before `Turn.enter`.

        `n_tokens` is the most that it may take. At `deadline` its caller has no use for it any more, on the
        event loop's clock; it waits until `ends_at`, by default the same.
        """
        return Turn(
            self,
            tenant,
            self._weights.get(tier, 1.0),
            priority,
            n_tokens,
            n_sequences,
            adapter_id,
            deadline,
            deadline if ends_at is None else ends_at,
        )

    def close(self) -> None:
        """Nobody is let in any more; who waits is told that the server stops."""
        self._is_closed = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(_stopping())

    def join(self, turn: Turn, now: float) -> tuple[Ticket, asyncio.Future[None] | None]:
        """A place inside; or one in the queue, and what tells of one inside. Raises as `Turn.enter`."""
        if self._is_closed:
            raise _stopping()
        ticket = self._window.add(
            turn.priority, turn.tenant, turn.n_tokens, weight=turn.weight, n_sequences=turn.n_sequences
        )
        self._pump(now)
        if ticket.is_inside:
            return ticket, None
        if turn.priority == "interactive":
            try:
                self._check(turn, ticket, now)
            except BaseException:
                self._window.leave(ticket, 0)
                raise
        future = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        self._rate.waiting(now, anybody=True)
        return ticket, future

    def leave(self, ticket: Ticket, n_tokens: int, now: float) -> None:
        self._waiting.pop(ticket, None)
        if ticket.is_inside:
            self._rate.ended(now, n_tokens)
        self._window.leave(ticket, n_tokens)
        self._pump(now)

    def admitted(self, priority: Priority, *, seconds: float) -> None:
        self._metrics.admitted(priority, seconds=seconds)

    def late(self) -> DeadlineExceeded:
        self._metrics.refused("deadline")
        return DeadlineExceeded(
            "the deadline passed while the request waited for its turn: ask later, or allow it more time"
        )

    def _pump(self, now: float) -> None:
        """Let in whoever can go. Called after everything that may let somebody go."""
        while (ticket := self._window.next()) is not None:
            future = self._waiting.pop(ticket, None)
            if future is not None and not future.done():
                future.set_result(None)
        if not self._window.queues["interactive"]:
            self._rate.waiting(now, anybody=False)

    def _check(self, turn: Turn, ticket: Ticket, now: float) -> None:
        """Refuse who is one too many, or would wait past its deadline."""
        queue = self._window.queues[turn.priority]
        rate = self._rate.tokens_per_s
        ahead = queue.ahead(ticket)
        n_waiting = queue.n_waiting_of(turn.tenant) - 1
        if n_waiting >= self._max_per_tenant:
            self._metrics.refused("tenant_full")
            one_goes_s = (ahead.own + ahead.others) / n_waiting / rate if rate else 1.0
            raise RateLimited(
                f"{n_waiting} of your requests are waiting, which is the limit: try again when one has gone",
                retry_after_s=one_goes_s,
            )
        if not rate:
            return
        wait_s = (ahead.own + ahead.others) / rate
        late_s = now + wait_s - turn.deadline
        if late_s <= 0:
            return
        if now + ahead.others / rate > turn.deadline:
            self._metrics.refused("system_wait")
            raise Overloaded(
                f"the server is overloaded: it would take about {wait_s:.0f} s until this request's turn, "
                "which is past its deadline",
                retry_after_s=late_s,
            )
        self._metrics.refused("tenant_wait")
        raise RateLimited(
            f"your earlier requests would take about {wait_s:.0f} s until this one's turn, which is past its "
            "deadline: send fewer at a time",
            retry_after_s=late_s,
        )


class Turn:
    """One generation's way through the queues.

    turn = queues.turn(...)
    try:
        await turn.enter()
        ...
    finally:
        turn.leave(n_tokens)
    """

    __slots__ = (
        "_adapter_id",
        "_ends_at",
        "_queues",
        "_ticket",
        "deadline",
        "n_sequences",
        "n_tokens",
        "priority",
        "tenant",
        "weight",
    )

    def __init__(
        self,
        queues: TenantQueues,
        tenant: str,
        weight: float,
        priority: Priority,
        n_tokens: int,
        n_sequences: int,
        adapter_id: str | None,
        deadline: float,
        ends_at: float,
    ) -> None:
        self._queues = queues
        self.tenant = tenant
        self.weight = weight
        self.priority = priority
        self.n_tokens = n_tokens
        self.n_sequences = n_sequences
        self.deadline = deadline
        self._adapter_id = adapter_id
        self._ends_at = ends_at
        self._ticket: Ticket | None = None

    async def enter(self) -> None:
        """Wait for the turn. Raises RateLimited, Overloaded, DeadlineExceeded, and EngineNotReady if the
        server stops. `leave` afterwards, whatever has happened."""
        loop = asyncio.get_running_loop()
        joined_at = loop.time()
        self._ticket, let_in = self._queues.join(self, joined_at)
        if self._adapter_id is not None:
            self._queues.users.join(self._adapter_id)
        if let_in is None:
            self._queues.admitted(self.priority, seconds=0.0)
            return
        try:
            async with asyncio.timeout_at(self._ends_at) as timer:
                await let_in
        except TimeoutError:
            if not timer.expired():
                raise
            raise self._queues.late() from None
        self._queues.admitted(self.priority, seconds=loop.time() - joined_at)

    def leave(self, n_tokens: int) -> None:
        """Give the place back, inside or in the queue; `n_tokens` have been used. Idempotent."""
        ticket, self._ticket = self._ticket, None
        if ticket is None:
            return
        self._queues.leave(ticket, n_tokens, asyncio.get_running_loop().time())
        if self._adapter_id is not None:
            self._queues.users.leave(self._adapter_id)


def _stopping() -> EngineNotReady:
    return EngineNotReady("the server is shutting down")
