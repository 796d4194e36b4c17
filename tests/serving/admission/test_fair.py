"""Fair queueing, by property: what tenants are promised holds for every sequence of events."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_lora.serving.admission.fair import MIN_LINES, FairQueue, Ticket

TENANTS = {"a": 1.0, "b": 1.0, "c": 4.0, "d": 0.5}
"""Their weights."""
MOST = 100
"""Tokens of one request."""


@dataclass
class World:
    """A queue, what waits and what is inside; checks after each event that nothing is lost."""

    queue: FairQueue = field(default_factory=FairQueue)
    waiting: dict[str, deque[Ticket]] = field(default_factory=lambda: defaultdict(deque))
    inside: list[Ticket] = field(default_factory=list)
    gone: list[Ticket] = field(default_factory=list)

    def add(self, tenant: str, estimate: int) -> Ticket:
        ticket = self.queue.add(tenant, estimate, weight=TENANTS[tenant])
        self.waiting[tenant].append(ticket)
        self.check()
        return ticket

    def next(self) -> Ticket | None:
        n_waiting = len(self.queue)
        ticket = self.queue.next()
        assert (ticket is None) == (n_waiting == 0), "it never idles while somebody waits"
        if ticket is not None:
            assert ticket is self.waiting[ticket.line.tenant].popleft(), (
                "each line is first come, first served"
            )
            self.inside.append(ticket)
            self.gone.append(ticket)
        self.check()
        return ticket

    def cancel(self, tenant: str, index: int) -> None:
        if line := self.waiting[tenant]:
            ticket = line[index % len(line)]
            line.remove(ticket)
            self.queue.cancel(ticket)
        self.check()

    def done(self, index: int, share: float) -> None:
        """One of those inside ends, and has taken a share of its estimate."""
        if self.inside:
            ticket = self.inside.pop(index % len(self.inside))
            self.queue.done(ticket, round(ticket.estimate * share))
        self.check()

    def check(self) -> None:
        assert len(self.queue) == sum(map(len, self.waiting.values()))
        for tenant, line in self.waiting.items():
            assert self.queue.n_waiting_of(tenant) == len(line)

    def busy(self) -> set[str]:
        return {tenant for tenant, line in self.waiting.items() if line}


tenants = st.sampled_from(sorted(TENANTS))
estimates = st.integers(1, MOST)
arrivals = st.tuples(st.just("add"), tenants, estimates)
turns = st.tuples(st.just("next"), st.none(), st.none())
ends = st.tuples(st.just("done"), st.integers(0, 50), st.just(1.0))
surprising_ends = st.tuples(st.just("done"), st.integers(0, 50), st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0]))
cancellations = st.tuples(st.just("cancel"), tenants, st.integers(0, 50))


def apply(world: World, event: tuple[str, object, object]) -> Ticket | None:
    kind, first, second = event
    if kind == "next":
        return world.next()
    getattr(world, kind)(first, second)
    return None


@given(st.lists(arrivals | turns | ends | cancellations, max_size=150))
def test_those_who_wait_are_served_alike_by_weight(events: list[tuple[str, object, object]]) -> None:
    """Theorem 1 of Goyal, Vin & Cheng: while two tenants both wait, their service per weight differs by no
    more than the largest request of each."""
    world = World()
    served: dict[tuple[str, str], dict[str, float]] = {}  # since both of a pair wait
    for event in events:
        waited = world.busy()
        ticket = apply(world, event)
        for pair in combinations(TENANTS, 2):
            if not waited.issuperset(pair):
                served.pop(pair, None)
                continue
            since = served.setdefault(pair, dict.fromkeys(pair, 0.0))
            if ticket is not None and ticket.line.tenant in pair:
                since[ticket.line.tenant] += ticket.estimate / TENANTS[ticket.line.tenant]
            one, other = pair
            bound = MOST / TENANTS[one] + MOST / TENANTS[other]
            assert abs(since[one] - since[other]) <= bound + 1e-6


@given(st.lists(arrivals | turns | ends, max_size=150))
def test_who_comes_new_is_passed_by_one_request_of_each_other(
    events: list[tuple[str, object, object]],
) -> None:
    world = World()
    for event in events:
        apply(world, event)
    single = world.queue.add("new", MOST)
    passed_by = []
    while (ticket := world.queue.next()) is not single:
        assert ticket is not None
        passed_by.append(ticket.line.tenant)
    assert len(passed_by) == len(set(passed_by))


def test_a_flood_delays_another_tenant_by_one_turn() -> None:
    world = World()
    for _ in range(1000):
        world.add("a", MOST)
    for _ in range(10):
        world.next()
    single = world.add("b", MOST)
    order = [world.next(), world.next()]
    assert single in order


@given(
    st.lists(arrivals | turns | surprising_ends | cancellations, max_size=150),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_nobody_is_lost_and_nothing_is_kept(events: list[tuple[str, object, object]], share: float) -> None:
    world = World()
    for event in events:
        apply(world, event)
    while world.next() is not None:
        pass
    while world.inside:
        world.done(0, share)
    assert len(set(world.gone)) == len(world.gone)
    assert len(world.queue) == world.queue.n_lines == 0


@settings(max_examples=50)
@given(
    st.dictionaries(tenants, st.floats(0.05, 1.0), min_size=2),
    st.integers(1, 16),
    st.randoms(use_true_random=False),
)
def test_what_was_really_used_is_what_counts_in_the_end(
    shares: dict[str, float], n_places: int, random: object
) -> None:
    """Tenants that always wait, and use different shares of what they may: when all that was let in has
    ended, their service per weight differs by what could be inside at most."""
    queue = FairQueue()
    used = dict.fromkeys(shares, 0.0)
    inside: list[Ticket] = []
    for _ in range(400):
        for tenant in shares:
            if not queue.n_waiting_of(tenant):
                for _ in range(n_places + 1):
                    queue.add(tenant, random.randint(1, MOST), weight=TENANTS[tenant])  # type: ignore[attr-defined]
        ticket = queue.next()
        assert ticket is not None
        inside.append(ticket)
        if len(inside) == n_places:
            end(queue, inside.pop(random.randrange(n_places)), shares, used)  # type: ignore[attr-defined]
    for ticket in inside:
        end(queue, ticket, shares, used)
    for one, other in combinations(shares, 2):
        bound = (n_places + 1) * MOST * max(1 / TENANTS[one], 1 / TENANTS[other])
        assert abs(used[one] / TENANTS[one] - used[other] / TENANTS[other]) <= bound


def end(queue: FairQueue, ticket: Ticket, shares: dict[str, float], used: dict[str, float]) -> None:
    tenant = ticket.line.tenant
    n_tokens = max(1, round(ticket.estimate * shares[tenant]))
    used[tenant] += n_tokens
    queue.done(ticket, n_tokens)


def test_a_rest_earns_nothing() -> None:
    """Neither does it earn what an earlier request was charged too much."""
    queue = FairQueue()
    dear = queue.add("a", 10 * MOST)
    assert queue.next() is dear
    for _ in range(100):
        queue.add("b", MOST)
    for _ in range(50):
        queue.next()
    queue.add("a", MOST)  # lifted to the present: its charge is settled
    queue.done(dear, 0)
    for _ in range(10):
        queue.add("a", MOST)
    order = [ticket.line.tenant for _ in range(10) if (ticket := queue.next())]
    assert order.count("a") == 5, order


@given(st.lists(arrivals | turns | ends, max_size=120), tenants, estimates)
def test_the_work_ahead_is_what_is_served_before(
    events: list[tuple[str, object, object]], tenant: str, estimate: int
) -> None:
    """As far as costs are known: to one request of each other tenant, which may begin before and end
    after."""
    world = World()
    for event in events:
        apply(world, event)
    ticket = world.add(tenant, estimate)
    ahead = world.queue.ahead(ticket)
    before = 0
    while (first := world.next()) is not ticket:
        assert first is not None
        before += first.estimate
    assert -1e-6 <= before - (ahead.own + ahead.others) <= MOST * (len(TENANTS) - 1)


def test_whose_the_work_ahead_is() -> None:
    queue = FairQueue()
    for _ in range(10):
        queue.add("flood", 100)
    assert queue.next() is not None
    flooding = queue.ahead(queue.add("flood", 100))
    assert (flooding.own, flooding.others) == (900, 0)
    light = queue.ahead(queue.add("light", 100))
    assert (light.own, light.others) == (0, 0), "the next turn is its own"


def test_it_learns_what_share_of_its_estimates_a_tenant_uses() -> None:
    queue = FairQueue()
    queue.add("a", 1000)
    for _ in range(50):
        ticket = queue.next()
        queue.add("a", 1000)  # one always waits: the queue is never idle, and forgets nothing
        assert ticket is not None
        queue.done(ticket, 100)
    queue.add("a", 1000)
    ahead = queue.ahead(queue.add("a", 1000))
    assert ahead.own == pytest.approx(200, rel=0.05)


def test_tenants_who_have_gone_are_forgotten_though_it_is_never_idle() -> None:
    queue = FairQueue()
    queue.add("steady", 1)
    most = 0
    for i in range(20 * MIN_LINES):
        queue.add("steady", 1)
        queue.add(f"once {i}", 1)
        for _ in range(2):
            ticket = queue.next()
            assert ticket is not None
            queue.done(ticket, 1)
        most = max(most, queue.n_lines)
    assert most <= MIN_LINES + 2
