"""Who is let in: never too many, never too few, the urgent first."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.serving.admission.fair import Ticket
from adaptive_lora.serving.admission.priority import PRIORITIES, Priority
from adaptive_lora.serving.admission.window import Size, Window, size_of
from adaptive_lora.settings import QueueSettings


@dataclass
class World:
    """A window and who is where; checks the promises after each event."""

    size: Size
    batch_share: float
    waiting: list[Ticket] = field(default_factory=list)
    inside: list[Ticket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.window = Window(lambda: self.size, batch_share=self.batch_share)

    def arrive(self, priority: Priority, n_sequences: int) -> None:
        self.waiting.append(self.window.add(priority, "a", 10, n_sequences=n_sequences))

    def leave(self, index: int) -> None:
        everybody = self.waiting + self.inside
        if everybody:
            ticket = everybody[index % len(everybody)]
            (self.inside if ticket.is_inside else self.waiting).remove(ticket)
            self.window.leave(ticket, 10)

    def resize(self, capacity: int, ready: int) -> None:
        self.size = Size(capacity, capacity + ready)

    def n_sequences(self, *priorities: Priority) -> int:
        return sum(ticket.n_sequences for ticket in self.inside if ticket.priority in priorities)

    def waits(self, priority: Priority) -> bool:
        return any(ticket.priority == priority for ticket in self.waiting)

    def let_in(self) -> None:
        n_inside, n_batch = self.n_sequences(*PRIORITIES), self.n_sequences("batch")
        while (ticket := self.window.next()) is not None:
            assert n_inside < self.size.window, "there was room"
            if ticket.priority == "batch":
                assert not self.waits("interactive")
                assert n_inside < self.size.capacity, "it would have run at once"
                assert n_batch == 0 or n_batch < self.batch_share * self.size.capacity
            self.waiting.remove(ticket)
            self.inside.append(ticket)
            n_inside, n_batch = self.n_sequences(*PRIORITIES), self.n_sequences("batch")
        if self.waits("interactive"):
            assert n_inside >= self.size.window, "nobody waits without need"
        elif self.waits("batch"):
            allowed = max(1.0, self.batch_share * self.size.capacity)
            assert n_inside >= self.size.capacity or n_batch >= allowed
        for priority in PRIORITIES:
            assert self.window.n_inside[priority] == self.n_sequences(priority)
        assert len(self.window) == len(self.waiting)


events = (
    st.tuples(st.just("arrive"), st.sampled_from(PRIORITIES), st.sampled_from([1, 1, 1, 4]))
    | st.tuples(st.just("leave"), st.integers(0, 50))
    | st.tuples(st.just("resize"), st.integers(1, 8), st.integers(0, 8))
)


@given(
    st.integers(1, 8),
    st.integers(0, 8),
    st.sampled_from([0.01, 0.5, 0.75, 1.0]),
    st.lists(events, max_size=120),
)
def test_the_window_is_full_whenever_somebody_waits(
    capacity: int, ready: int, batch_share: float, events: list[tuple[object, ...]]
) -> None:
    world = World(Size(capacity, capacity + ready), batch_share)
    for name, *arguments in events:
        getattr(world, str(name))(*arguments)
        world.let_in()
    while world.inside or world.waiting:
        world.leave(0)
        world.let_in()
    assert dict(world.window.n_inside) == {"interactive": 0, "batch": 0}


def test_low_priority_leaves_room_for_who_comes_next() -> None:
    world = World(Size(capacity=8, window=16), batch_share=0.75)
    for _ in range(20):
        world.arrive("batch", 1)
    world.let_in()
    assert world.n_sequences("batch") == 6
    for _ in range(2):
        world.arrive("interactive", 1)
    world.let_in()
    assert not world.waits("interactive")
    assert world.n_sequences(*PRIORITIES) == 8, "the engine runs them at once"


def test_low_priority_waits_while_the_engine_is_busy() -> None:
    world = World(Size(capacity=2, window=4), batch_share=1.0)
    for _ in range(3):
        world.arrive("interactive", 1)
    world.let_in()
    world.arrive("batch", 1)
    world.let_in()
    world.leave(1)  # two are left, which is all that runs at once
    world.let_in()
    assert world.waits("batch")
    world.leave(1)
    world.let_in()
    assert not world.waits("batch")


def test_how_large_it_is() -> None:
    assert size_of(QueueSettings(), max_batch_size=32) == Size(32, 48)
    assert size_of(QueueSettings(), max_batch_size=1) == Size(1, 3)
    assert size_of(QueueSettings(), max_batch_size=32, adapters_compete=True) == Size(32, 128)
    assert size_of(QueueSettings(), max_batch_size=32, n_workers=3) == Size(96, 192)
    assert size_of(QueueSettings(), max_batch_size=32, n_workers=0) == Size(32, 64), "none answers: be ready"
    assert size_of(QueueSettings(window=5), max_batch_size=32, n_workers=3) == Size(96, 5)
