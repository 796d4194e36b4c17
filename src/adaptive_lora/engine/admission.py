"""Who goes next when more adapters are asked for than have slots. A data structure: no clock, no I/O.

A request waits here until the engine has a place for it (a sequence in its batch, and a small margin) and,
if it has an adapter, a slot. A pinned adapter has a slot of its own; the others share the rest. An adapter
with requests in the engine is active and holds its slot; an idle one is resident until another takes it.

Each admission is a round. Who goes, in this order:

    active      its weights are in the batch anyway
    resident    its weights are in a slot
    oldest      who has waited longest; those who ask for the same adapter then follow as active

Within an adapter it is first come, first served. Preferring means passing, so there is a bound: no request is
passed by more than `max_wait_rounds` later ones. When the oldest has been passed so often, nobody else takes
or keeps a shared slot until it has been admitted. The base and pinned adapters do not compete for slots:
their requests go by age, so they pass only those that cannot go yet, whom that costs nothing. It is not
counted.
"""

from __future__ import annotations

import bisect
import heapq
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Policy = Literal["residency", "fifo"]
"""By preference as above; or always the oldest that can go, as vLLM does by itself."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request's stand in the queue and then in the engine, until it is released."""

    request_id: str
    adapter_id: str | None
    n_places: int
    """Sequences that it takes in the engine's batch."""
    number: int
    """Order of arrival."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A round: who goes, and what that does to the slots."""

    ticket: Ticket
    n_passed: int
    """Requests for other adapters that came later and went earlier: the rounds that it waited for them."""
    is_hit: bool
    """Its adapter was in a slot, or it needs none."""
    evicted: str | None
    """The adapter that loses its slot."""


class AdmissionQueue:
    """The requests that wait, and what is known of the engine. Methods take O(adapters that are waited for).

    `n_places` is how many sequences the engine takes. One request may exceed it, so that none is too large.
    """

    def __init__(
        self,
        *,
        n_slots: int,
        n_places: int,
        max_wait_rounds: int = 256,
        policy: Policy = "residency",
    ) -> None:
        self._n_slots = n_slots
        self._n_places = n_places
        self._max_wait_rounds = max_wait_rounds
        self._policy = policy
        self._n_arrived = 0
        self._n_waiting = 0
        self._n_places_taken = 0
        self._waiting: dict[str | None, deque[Ticket]] = {}  # by adapter; no line is empty
        self._active: dict[str, int] = {}  # requests in the engine, by adapter
        self._resident: dict[
            str, None
        ] = {}  # adapters in shared slots; of the idle ones the longest idle first
        self._pinned: set[str] = set()
        self._passing: list[
            int
        ] = []  # sorted numbers of those who took shared slots and may have passed others
        self.longest_wait_rounds = 0
        """The largest `n_passed` so far."""

    def __len__(self) -> int:
        """How many wait."""
        return self._n_waiting

    def add(self, request_id: str, adapter_id: str | None, *, n_places: int = 1) -> Ticket:
        """Join the queue. How many may is for those in front to say (`serving.admission`)."""
        ticket = Ticket(request_id, adapter_id, n_places, self._n_arrived)
        self._n_arrived += 1
        self._n_waiting += 1
        self._waiting.setdefault(adapter_id, deque()).append(ticket)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Leave the queue without having been admitted."""
        self._waiting[ticket.adapter_id].remove(ticket)
        self._left_queue(ticket)

    def next(self) -> Admission | None:
        """Admit a request. None if nobody waits who can go now."""
        ticket = self._choose() if self._n_places_taken < self._n_places else None
        if ticket is None:
            return None
        n_passed = self._n_passed(ticket)
        self.longest_wait_rounds = max(self.longest_wait_rounds, n_passed)
        is_hit, evicted = self._take_slot(ticket)
        self._waiting[ticket.adapter_id].popleft()
        self._left_queue(ticket)
        self._n_places_taken += ticket.n_places
        return Admission(ticket, n_passed, is_hit, evicted)

    def release(self, ticket: Ticket) -> None:
        """Leave the engine."""
        self._n_places_taken -= ticket.n_places
        adapter_id = ticket.adapter_id
        if adapter_id is None:
            return
        self._active[adapter_id] -= 1
        if self._active[adapter_id] == 0:
            del self._active[adapter_id]
            if self._resident.pop(adapter_id, _ABSENT) is not _ABSENT:
                self._resident[adapter_id] = None

    def pin(self, adapter_id: str) -> None:
        """Give the adapter a slot of its own. Idempotent."""
        self._pinned.add(adapter_id)
        self._resident.pop(adapter_id, None)
        if len(self._resident) > self._n_shared:
            self._evict()

    def unpin(self, adapter_id: str) -> None:
        """Its slot is shared again, and it is in it. Idempotent."""
        if adapter_id in self._pinned:
            self._pinned.discard(adapter_id)
            self._resident[adapter_id] = None

    def forget(self, adapter_id: str) -> None:
        """The adapter is not in the engine any more."""
        self._pinned.discard(adapter_id)
        self._resident.pop(adapter_id, None)

    def observe(self, in_slots: Collection[str]) -> None:
        """What the engine says: it loads adapters into slots by itself, too."""
        kept = [a for a in self._resident if a in in_slots or a in self._active]
        new = [a for a in in_slots if a not in self._resident and a not in self._pinned]
        self._resident = dict.fromkeys(kept + new)

    def asks_for(self, adapter_id: str) -> bool:
        """Whether a request for the adapter waits."""
        return adapter_id in self._waiting

    def is_pinned(self, adapter_id: str) -> bool:
        return adapter_id in self._pinned

    def upcoming(self, n: int) -> list[str]:
        """The adapters without a slot that will be given one next: at most `n`."""
        heads = [line[0] for line in self._waiting.values()]
        missing = [h for h in heads if self._competes(h) and h.adapter_id not in self._resident]
        return [str(head.adapter_id) for head in heapq.nsmallest(n, missing, key=_number)]

    @property
    def _n_shared(self) -> int:
        return self._n_slots - len(self._pinned)

    def _choose(self) -> Ticket | None:
        heads = [line[0] for line in self._waiting.values()]
        can_go = [head for head in heads if self._has_slot(head.adapter_id)]
        if not can_go:
            return None
        oldest, first = min(heads, key=_number), min(can_go, key=_number)
        is_due = self._n_passed(oldest) >= self._max_wait_rounds
        if is_due and first is not oldest:  # it waits for a slot, and nobody else gets one
            return min((head for head in can_go if not self._competes(head)), key=_number, default=None)
        if is_due or self._policy == "fifo" or not self._competes(first):
            return first
        return min(filter(self._competes, can_go), key=self._preference)

    def _preference(self, ticket: Ticket) -> tuple[bool, bool, int]:
        adapter_id = ticket.adapter_id
        return adapter_id not in self._active, adapter_id not in self._resident, ticket.number

    def _competes(self, ticket: Ticket) -> bool:
        """Whether it needs one of the shared slots."""
        return ticket.adapter_id is not None and ticket.adapter_id not in self._pinned

    def _has_slot(self, adapter_id: str | None) -> bool:
        if adapter_id is None or adapter_id in self._pinned:
            return True
        n_held = sum(active not in self._pinned for active in self._active)
        return n_held + (adapter_id not in self._active) <= self._n_shared

    def _take_slot(self, ticket: Ticket) -> tuple[bool, str | None]:
        """Returns whether it was a hit, and who is evicted."""
        adapter_id = ticket.adapter_id
        if adapter_id is None:
            return True, None
        self._active[adapter_id] = self._active.get(adapter_id, 0) + 1
        if adapter_id in self._pinned:
            return True, None
        bisect.insort(self._passing, ticket.number)
        if adapter_id in self._resident:
            return True, None
        evicted = self._evict() if len(self._resident) >= self._n_shared else None
        self._resident[adapter_id] = None
        return False, evicted

    def _evict(self) -> str | None:
        """The adapter that is idle the longest loses its slot; None if all are active."""
        idle = next((a for a in self._resident if a not in self._active), None)
        if idle is not None:
            del self._resident[idle]
        return idle

    def _n_passed(self, ticket: Ticket) -> int:
        return len(self._passing) - bisect.bisect(self._passing, ticket.number)

    def _left_queue(self, ticket: Ticket) -> None:
        self._n_waiting -= 1
        if not self._waiting[ticket.adapter_id]:
            del self._waiting[ticket.adapter_id]
        oldest = min((line[0].number for line in self._waiting.values()), default=self._n_arrived)
        del self._passing[: bisect.bisect(self._passing, oldest)]  # they have passed nobody who still waits


_ABSENT = object()


def _number(ticket: Ticket) -> int:
    return ticket.number
