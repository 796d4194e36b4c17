"""One generation's way through the tenants' queues."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from adaptive_lora.serving.admission.fair import Ticket
from adaptive_lora.serving.admission.priority import Priority

if TYPE_CHECKING:
    from adaptive_lora.serving.admission.queues import TenantQueues


class Turn:
    """One generation's.

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
