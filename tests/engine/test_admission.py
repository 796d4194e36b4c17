"""The admission policy, by property: its promises hold for every sequence of events."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_lora.engine.admission import Admission, AdmissionQueue, Ticket

ADAPTERS = ["a", "b", "c", "d", "e"]
"""More than there are slots."""


class World:
    """A queue and the engine behind it; checks the promises after each event."""

    def __init__(self, n_slots: int, n_places: int, max_wait_rounds: int, policy: str) -> None:
        self.queue = AdmissionQueue(
            n_slots=n_slots, n_places=n_places, max_wait_rounds=max_wait_rounds, policy=policy
        )
        self.n_slots, self.n_places, self.max_wait_rounds = n_slots, n_places, max_wait_rounds
        self.waiting: list[Ticket] = []
        self.running: list[Ticket] = []
        self.pinned: set[str] = set()
        self.passed: Counter[int] = Counter()
        self.n_admitted = self.n_cancelled = self.n_arrived = 0

    def arrive(self, adapter_id: str | None, n_places: int = 1) -> None:
        self.n_arrived += 1
        self.waiting.append(self.queue.add(str(self.n_arrived), adapter_id, n_places=n_places))

    def cancel(self, index: int) -> None:
        if self.waiting:
            self.queue.cancel(self.waiting.pop(index % len(self.waiting)))
            self.n_cancelled += 1

    def end(self, index: int) -> None:
        if self.running:
            self.queue.release(self.running.pop(index % len(self.running)))

    def pin(self, adapter_id: str) -> None:
        if len(self.pinned | {adapter_id}) < self.n_slots:
            self.pinned.add(adapter_id)
            self.queue.pin(adapter_id)

    def unpin(self, adapter_id: str) -> None:
        self.pinned.discard(adapter_id)
        self.queue.unpin(adapter_id)

    def shared_active(self, without: str | None = None) -> int:
        active = {t.adapter_id for t in self.running} - {None, without}
        return len(active - self.pinned)

    def admit(self) -> None:
        """As many rounds as there are."""
        while (admission := self.queue.next()) is not None:
            self.check(admission)
        assert len(self.queue) == len(self.waiting)

    def check(self, admission: Admission) -> None:
        ticket = admission.ticket
        same = [t for t in self.waiting if t.adapter_id == ticket.adapter_id]
        assert ticket is same[0], "first come, first served within an adapter"
        assert sum(t.n_places for t in self.running) < self.n_places
        self.waiting.remove(ticket)  # raises for one that was admitted before
        others = self.shared_active(without=ticket.adapter_id)
        self.running.append(ticket)
        self.n_admitted += 1
        if ticket.adapter_id is not None and ticket.adapter_id not in self.pinned:
            assert others < self.n_slots - len(self.pinned), "it has a slot, and pinned ones keep theirs"
            for earlier in self.waiting:
                if earlier.number < ticket.number:
                    self.passed[earlier.number] += 1
                    assert self.passed[earlier.number] <= self.max_wait_rounds
        assert admission.n_passed == self.passed[ticket.number]
        if admission.evicted is not None:
            assert admission.evicted not in self.pinned | {t.adapter_id for t in self.running}

    def drain(self) -> None:
        """Everything ends, one after another: then everybody who did not leave has been admitted."""
        while self.running or self.waiting:
            assert self.running, "somebody waits and nothing runs: starvation"
            self.end(0)
            self.admit()
        assert self.n_admitted + self.n_cancelled == self.n_arrived
        assert len(self.queue) == 0


adapter = st.sampled_from(ADAPTERS)
event = st.one_of(
    st.tuples(st.just("arrive"), st.one_of(st.none(), adapter, adapter), st.integers(1, 3)),
    st.tuples(st.just("end"), st.integers(0, 99)),
    st.tuples(st.just("end"), st.integers(0, 99)),
    st.tuples(st.just("cancel"), st.integers(0, 99)),
    st.tuples(st.sampled_from(["pin", "unpin"]), adapter),
)


@settings(max_examples=400, deadline=None)
@given(
    n_slots=st.integers(1, 4),
    n_places=st.integers(1, 6),
    max_wait_rounds=st.integers(0, 6),
    policy=st.sampled_from(["residency", "fifo"]),
    events=st.lists(event, max_size=80),
)
def test_the_promises_hold_for_every_sequence_of_events(n_slots, n_places, max_wait_rounds, policy, events):
    """Bound, order, slots, pins and conservation are checked at each round, starvation at the end."""
    world = World(n_slots, n_places, max_wait_rounds, policy)
    for name, *arguments in events:
        getattr(world, name)(*arguments)
        world.admit()
    world.drain()
    assert world.queue.longest_wait_rounds <= max_wait_rounds


@given(order=st.permutations(["a"] * 4 + ["b"] * 4 + ["c"] * 4))
def test_without_pressure_of_the_bound_each_adapter_takes_a_slot_once(order):
    """One slot, one place: twelve requests for three adapters cost three changes of the slot."""
    queue = AdmissionQueue(n_slots=1, n_places=1, max_wait_rounds=100)
    for i, adapter_id in enumerate(order):
        queue.add(str(i), adapter_id)
    misses = 0
    while (admission := queue.next()) is not None:
        misses += not admission.is_hit
        queue.release(admission.ticket)
    assert misses == 3


def admit(queue: AdmissionQueue) -> list[tuple[str, str | None]]:
    admitted = []
    while (admission := queue.next()) is not None:
        admitted.append((admission.ticket.request_id, admission.ticket.adapter_id))
    return admitted


def test_the_order_of_preference():
    queue = AdmissionQueue(n_slots=2, n_places=1)
    idle = queue.add("0", "idle")
    assert admit(queue) == [("0", "idle")]
    queue.release(idle)
    for request_id, adapter_id in enumerate(["new", "idle", "new", "idle"], start=1):
        queue.add(str(request_id), adapter_id)
    order = []
    while (admission := queue.next()) is not None:
        order.append((admission.ticket.request_id, admission.is_hit))
        queue.release(admission.ticket)
    assert order == [("2", True), ("4", True), ("1", False), ("3", True)]


def test_the_base_and_the_pinned_never_wait_for_slots():
    queue = AdmissionQueue(n_slots=2, n_places=10)
    queue.pin("pinned")
    for request_id, adapter_id in enumerate(["a", "b", None, "pinned"]):
        queue.add(str(request_id), adapter_id)
    assert admit(queue) == [("0", "a"), ("2", None), ("3", "pinned")]


def test_who_was_passed_too_often_stops_the_others_until_it_has_a_slot():
    queue = AdmissionQueue(n_slots=1, n_places=10, max_wait_rounds=2)
    queue.add("0", "a")
    queue.add("1", "b")
    (first,) = [queue.next()]
    for request_id in "234":
        queue.add(request_id, "a")
    queue.add("5", None)
    passing = [queue.next() for _ in range(3)]
    assert [a.ticket.request_id for a in passing] == ["2", "3", "5"]
    assert queue.next() is None, "request 4 would be the third to pass"
    for admission in (first, *passing):
        queue.release(admission.ticket)
    assert queue.next() == Admission(queue_ticket("1", "b", 1), 2, False, "a")


def queue_ticket(request_id: str, adapter_id: str, number: int) -> Ticket:
    return Ticket(request_id, adapter_id, 1, number)


def test_evictions_take_who_is_idle_the_longest():
    queue = AdmissionQueue(n_slots=2, n_places=1)
    rounds = []
    for request_id, adapter_id in enumerate("abacab"):
        queue.add(str(request_id), adapter_id)
        admission = queue.next()
        rounds.append((admission.is_hit, admission.evicted))
        queue.release(admission.ticket)
    assert rounds == [(False, None), (False, None), (True, None), (False, "b"), (True, None), (False, "c")]


def test_what_the_engine_says_of_its_slots_counts():
    queue = AdmissionQueue(n_slots=2, n_places=1)
    queue.observe(["a", "b"])
    queue.add("0", "c")
    queue.add("1", "b")
    assert queue.upcoming(5) == ["c"]
    assert queue.next().ticket.adapter_id == "b"


def test_a_request_for_more_sequences_than_there_are_places():
    queue = AdmissionQueue(n_slots=1, n_places=2)
    large = queue.add("0", None, n_places=8)
    queue.add("1", None)
    assert admit(queue) == [("0", None)]
    queue.release(large)
    assert admit(queue) == [("1", None)]


def test_an_unloaded_adapter_leaves_its_slot_and_its_pin():
    queue = AdmissionQueue(n_slots=2, n_places=9)
    queue.pin("a")
    queue.forget("a")
    for request_id in "bc":
        queue.add(request_id, request_id)
    assert admit(queue) == [("b", "b"), ("c", "c")]
