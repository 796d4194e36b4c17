"""Start-time fair queueing among tenants (Goyal, Vin & Cheng 1996); what a request costs is known afterwards.

Each tenant has a line, and a tag: how much service it has had, in tokens divided by its weight. The head of
the line with the smallest tag goes next. It is charged at once with what it is expected to take, and when it
ends the charge becomes what it has taken (as the virtual token counter of Sheng et al. 2024 does). Virtual
time is the tag of who went last. A tenant that joins again after a rest starts from there: it has neither
saved anything up, nor does it pay for having had the engine to itself.

So among tenants who all have somebody waiting, service per weight differs by no more than one request of
each; and one that had nobody waiting is passed by one request of each other at most. How long the others'
lines are makes no difference.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from adaptive_lora.serving.admission.priority import Priority

LEARNING: Final = 0.2
"""Weight of the newest request in the share of their estimates that a tenant's requests really take."""
MIN_LINES: Final = 64
"""Up to so many are kept without looking which of them could be forgotten."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A request's stand in a line, and then in the engine, until it is done."""

    line: Line
    priority: Priority
    estimate: int
    """The most tokens that it may take."""
    n_sequences: int
    """That it takes in the engine's batch."""
    number: int
    """Order of arrival."""
    is_inside: bool = False
    charge: float = 0.0
    """What its line was charged when it went."""
    epoch: int = 0
    """Of its line, when it went."""


@dataclass(slots=True, eq=False)
class Line:
    """One tenant's."""

    tenant: str
    use: float
    """Share of their estimates that its requests have taken, lately."""
    weight: float = 1.0
    tag: float = 0.0
    """Tokens of service per weight, as virtual time."""
    epoch: int = 0
    """How often it has been lifted to virtual time: charges from before are settled."""
    waiting: OrderedDict[Ticket, None] = field(default_factory=OrderedDict)
    backlog: int = 0
    """Sum of the estimates of those who wait."""
    n_inside: int = 0

    @property
    def expected(self) -> float:
        """What those who wait will take, in tokens."""
        return self.backlog * self.use

    def served_until(self, tag: float) -> float:
        """What those who wait now will have taken by the time that another line, which has joined later,
        is served with this tag; in tokens, and a part of a request less at most."""
        if tag < self.tag:
            return 0.0
        at_least = self.first.estimate * self.use
        return min(self.expected, max(at_least, (tag - self.tag) * self.weight))

    @property
    def first(self) -> Ticket:
        return next(iter(self.waiting))


@dataclass(frozen=True, slots=True)
class WorkAhead:
    """What goes before a request, in tokens."""

    own: float
    """Its tenant's own earlier requests, and what others are served meanwhile."""
    others: float
    """What others would be served before it if its tenant had no others waiting."""


class FairQueue:
    """Those of one priority. Pure state. `next` and `ahead` take O(tenants with somebody waiting), all else
    O(1)."""

    def __init__(self, priority: Priority = "interactive") -> None:
        self._priority = priority
        self._lines: dict[str, Line] = {}
        self._busy: dict[str, Line] = {}  # those with somebody waiting
        self._now = 0.0  # virtual time
        self._use = 1.0  # over all tenants: what is expected of one that is not known
        self._n_arrived = 0
        self._n_waiting = 0
        self._n_inside = 0
        self._look_through_at = MIN_LINES

    def __len__(self) -> int:
        """How many wait."""
        return self._n_waiting

    @property
    def n_lines(self) -> int:
        """Tenants that are remembered."""
        return len(self._lines)

    def n_waiting_of(self, tenant: str) -> int:
        line = self._busy.get(tenant)
        return len(line.waiting) if line else 0

    def add(self, tenant: str, estimate: int, *, weight: float = 1.0, n_sequences: int = 1) -> Ticket:
        """Join the tenant's line. `weight` is the tenant's from now on."""
        line = self._lines.get(tenant)
        if line is None:
            line = self._lines[tenant] = Line(tenant, self._use)
        line.weight = weight
        if not line.waiting:
            self._busy[tenant] = line
            if line.tag < self._now:
                line.tag = self._now
                line.epoch += 1
        ticket = Ticket(line, self._priority, estimate, n_sequences, self._n_arrived)
        line.waiting[ticket] = None
        line.backlog += estimate
        self._n_arrived += 1
        self._n_waiting += 1
        return ticket

    def next(self) -> Ticket | None:
        """Who goes now; None if nobody waits."""
        line = self._first_line()
        if line is None:
            return None
        ticket = line.first
        self._leave_line(ticket)
        self._now = max(self._now, line.tag)
        ticket.is_inside = True
        ticket.charge = ticket.estimate * line.use
        ticket.epoch = line.epoch
        line.tag += ticket.charge / line.weight
        line.n_inside += 1
        self._n_inside += 1
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Leave the line without having gone."""
        self._leave_line(ticket)
        self._forget_resting(ticket.line)

    def done(self, ticket: Ticket, used: int) -> None:
        """It has ended, and has taken `used` tokens."""
        line = ticket.line
        surplus = used - ticket.charge
        if surplus > 0 or ticket.epoch == line.epoch:
            line.tag += surplus / line.weight
        if used:  # else it has failed, which says nothing about the next one
            share = used / max(ticket.estimate, 1)
            line.use += LEARNING * (share - line.use)
            self._use += LEARNING * (share - self._use)
        line.n_inside -= 1
        self._n_inside -= 1
        self._forget_resting(line)

    def ahead(self, ticket: Ticket) -> WorkAhead:
        """For the one that has come last."""
        line = ticket.line
        own = max(0.0, line.expected - ticket.estimate * line.use)
        starts_at = line.tag + own / line.weight
        with_own = alone = 0.0
        for other in self._busy.values():
            if other is not line:
                with_own += other.served_until(starts_at)
                alone += other.served_until(line.tag)
        return WorkAhead(own + with_own - alone, alone)

    def _first_line(self) -> Line | None:
        if len(self._busy) <= 1:
            return next(iter(self._busy.values()), None)
        return min(self._busy.values(), key=lambda line: (line.tag, line.first.number))

    def _leave_line(self, ticket: Ticket) -> None:
        line = ticket.line
        del line.waiting[ticket]
        line.backlog -= ticket.estimate
        self._n_waiting -= 1
        if not line.waiting:
            del self._busy[line.tenant]

    def _forget_resting(self, line: Line) -> None:
        """Lines that would be lifted if somebody joined need not be kept; the others pay first."""
        if line.waiting or line.n_inside:
            return
        if not self._n_waiting and not self._n_inside:
            self._lines.clear()
            self._now = 0.0
            self._look_through_at = MIN_LINES
        elif line.tag <= self._now:
            del self._lines[line.tenant]
        elif len(self._lines) > self._look_through_at:
            self._lines = {
                tenant: each
                for tenant, each in self._lines.items()
                if each.waiting or each.n_inside or each.tag > self._now
            }
            self._look_through_at = max(MIN_LINES, 2 * len(self._lines))
