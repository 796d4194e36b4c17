"""How many are let into the engine at a time, and of which priority. Pure state.

    capacity   sequences that the engine runs at once
    window     sequences that are let in: more, so that what becomes free is filled at once, and so that the
               engine's own queue has some to choose among

Interactive requests go as long as there is room in the window. Batch work goes if nobody interactive waits,
while the engine has sequences free, and never takes more than its share of them: who comes then finds some
free at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from adaptive_lora.serving.admission.fair import FairQueue, Ticket
from adaptive_lora.serving.admission.priority import PRIORITIES, Priority
from adaptive_lora.settings import QueueSettings

SPREAD: Final = 2
TO_CHOOSE_AMONG: Final = 4
"""Times what the engine runs at once."""


@dataclass(frozen=True, slots=True)
class Size:
    """In sequences."""

    capacity: int
    window: int


def size_of(
    settings: QueueSettings,
    *,
    max_batch_size: int,
    n_workers: int | None = None,
    adapters_compete: bool = False,
) -> Size:
    """By default half as much again as runs at once, so that what becomes free is filled at once; more for
    workers (None: the engine is in this process), among which the load is never even. Where adapters compete
    for slots, the engine's own queue chooses whose requests run together: the more it has to choose among,
    the fuller is the batch (`benchmarks/bench_window.py`)."""
    capacity = max_batch_size * max(1, n_workers or 1)
    if settings.window is not None:
        return Size(capacity, settings.window)
    if adapters_compete:
        return Size(capacity, TO_CHOOSE_AMONG * capacity)
    if n_workers is not None:
        return Size(capacity, SPREAD * capacity)
    return Size(capacity, capacity + max(2, capacity // 2))


class Window:
    """A fair queue for each priority, and what is inside.

    A request is let in as soon as there is any room, however many sequences it has: none is too large.
    """

    def __init__(self, size: Callable[[], Size], *, batch_share: float) -> None:
        """`size` is asked each time somebody could go: it changes with the engine."""
        self._size = size
        self._batch_share = batch_share
        self.queues: dict[Priority, FairQueue] = {priority: FairQueue(priority) for priority in PRIORITIES}
        self.n_inside: dict[Priority, int] = dict.fromkeys(PRIORITIES, 0)
        """Sequences."""

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self.queues.values()))

    def add(
        self, priority: Priority, tenant: str, estimate: int, *, weight: float = 1.0, n_sequences: int = 1
    ) -> Ticket:
        """Join the queue, until `leave`."""
        queue = self.queues[priority]
        return queue.add(tenant, estimate, weight=weight, n_sequences=n_sequences)

    def next(self) -> Ticket | None:
        """Let one in. None if nobody waits who can go now."""
        priority = self._choose()
        ticket = None if priority is None else self.queues[priority].next()
        if ticket is not None:
            self.n_inside[ticket.priority] += ticket.n_sequences
        return ticket

    def leave(self, ticket: Ticket, used: int) -> None:
        """Leave the queue; or the window, having taken `used` tokens."""
        queue = self.queues[ticket.priority]
        if not ticket.is_inside:
            queue.cancel(ticket)
            return
        self.n_inside[ticket.priority] -= ticket.n_sequences
        queue.done(ticket, used)

    def _choose(self) -> Priority | None:
        n_batch = self.n_inside["batch"]
        n_inside = self.n_inside["interactive"] + n_batch
        if self.queues["interactive"]:
            return "interactive" if n_inside < self._size().window else None
        if not self.queues["batch"]:
            return None
        capacity = self._size().capacity
        has_room = n_inside < capacity and n_batch < max(1.0, self._batch_share * capacity)
        return "batch" if has_room else None
