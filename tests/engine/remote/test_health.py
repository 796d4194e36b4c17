"""The breaker: every sequence of events keeps to its diagram."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.engine.remote.health import FAILURES_TO_OPEN, FIRST_PAUSE_S, LONGEST_PAUSE_S, Breaker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def closed() -> tuple[Breaker, Clock]:
    clock = Clock()
    breaker = Breaker(clock)
    breaker.probe()
    breaker.succeeded()
    return breaker, clock


def test_it_is_born_open_and_due():
    breaker = Breaker(Clock())
    assert (breaker.state, breaker.due_in_s()) == ("open", 0.0)


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not():
    breaker, _ = closed()
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.failed()
    breaker.succeeded()
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.failed()
    assert breaker.state == "closed"
    breaker.failed()
    assert breaker.state == "open"


def test_what_leaves_no_doubt_opens_at_once():
    breaker, _ = closed()
    breaker.failed(at_once=True)
    assert breaker.state == "open"


def test_the_pause_doubles_up_to_a_bound_and_starts_anew_after_a_success():
    breaker, clock = closed()
    breaker.failed(at_once=True)
    pauses = []
    for _ in range(10):
        pauses.append(breaker.due_in_s())
        clock.now += pauses[-1]
        assert breaker.due_in_s() == 0
        breaker.probe()
        breaker.failed()
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert max(pauses) == pauses[-1] == LONGEST_PAUSE_S
    clock.now += LONGEST_PAUSE_S
    breaker.probe()
    breaker.succeeded()
    breaker.failed(at_once=True)
    assert breaker.due_in_s() == FIRST_PAUSE_S


@given(st.lists(st.sampled_from(["failed", "refused", "succeeded", "probe", "wait"])))
def test_only_a_canary_closes_it(events):
    clock = Clock()
    breaker = Breaker(clock)
    for event in events:
        before = breaker.state
        match event:
            case "failed":
                breaker.failed()
            case "refused":
                breaker.failed(at_once=True)
            case "succeeded":
                breaker.succeeded()
            case "probe":
                breaker.probe()
            case "wait":
                clock.now += 1
        if before == "open":
            assert breaker.state == ("half_open" if event == "probe" else "open")
        if breaker.state == "closed" and before != "closed":
            assert (before, event) == ("half_open", "succeeded")
        assert 0 <= breaker.due_in_s() <= LONGEST_PAUSE_S
