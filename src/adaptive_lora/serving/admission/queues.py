"""The tenants' queues: whose turn it is to enter the engine.

`window` and `fair` decide the order, `refusal` who is told at once that its turn will not come; here are the
clock and those who wait. Work of priority "batch" is never refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from adaptive_lora.errors import DeadlineExceeded, EngineNotReady
from adaptive_lora.serving.admission.fair import Ticket
from adaptive_lora.serving.admission.priority import PRIORITIES, Priority
from adaptive_lora.serving.admission.rate import ServiceRate
from adaptive_lora.serving.admission.refusal import refusal_of
from adaptive_lora.serving.admission.turn import Turn
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
        is_urgent = turn.priority == "interactive"
        if is_urgent:
            try:
                self._check(turn, ticket, now)
            except BaseException:
                self._window.leave(ticket, 0)
                raise
        future = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        if is_urgent:  # while batch work alone waits, the engine is not kept busy
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
        refusal = refusal_of(
            queue.ahead(ticket),
            self._rate.tokens_per_s,
            n_waiting=queue.n_waiting_of(turn.tenant) - 1,
            max_waiting=self._max_per_tenant,
            time_left_s=turn.deadline - now,
        )
        if refusal is not None:
            self._metrics.refused(refusal.reason)
            raise refusal.error


def _stopping() -> EngineNotReady:
    return EngineNotReady("the server is shutting down")
