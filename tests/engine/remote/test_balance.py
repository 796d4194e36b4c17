"""The choice policy: whatever the loads are, it stays within its rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.engine.remote.balance import BUSY_TOKENS, DECAY_S, Balancer, Load, rank

NAMES = [f"http://10.0.0.{i}:8000" for i in range(8)]
ADAPTERS = [f"adapter-{i}@0123456789ab" for i in range(40)]

workers = st.lists(st.sampled_from(NAMES), min_size=1, unique=True)
work = st.dictionaries(st.sampled_from([None, *ADAPTERS[:5]]), st.integers(0, 100_000))


def load(by_adapter=()):
    by_adapter = dict(by_adapter)
    return Load(sum(by_adapter.values()), by_adapter)


loads = st.dictionaries(st.sampled_from(NAMES), work.map(load), min_size=1)


@given(
    loads, st.sampled_from([None, *ADAPTERS[:5]]), st.integers(1, 4), st.lists(st.floats(0, 1e4), max_size=20)
)
def test_who_answers_is_asked_and_replicas_are_bounded(loads, adapter, max_replicas, moments):
    balancer = Balancer(max_replicas)
    for now in sorted(moments):
        assert balancer.choose("request", adapter, loads, now) in loads
        if adapter is not None:
            replicas = balancer.replicas(adapter, loads, now)
            assert 1 <= len(replicas) <= max_replicas
            assert replicas == rank(adapter, loads)[: len(replicas)]


@given(loads)
def test_the_base_goes_to_the_least_loaded(loads):
    chosen = Balancer(2).choose("request", None, loads, 0.0)
    assert loads[chosen].tokens == min(load.tokens for load in loads.values())


def test_idle_workers_take_turns():
    idle = dict.fromkeys(NAMES[:2], load())
    chosen = [Balancer(2).choose(f"request-{i}", None, idle, 0.0) for i in range(100)]
    assert 25 < chosen.count(NAMES[0]) < 75


@given(workers, st.sampled_from(ADAPTERS), st.data())
def test_when_a_worker_leaves_only_its_own_adapters_move(present, adapter, data):
    gone = data.draw(st.sampled_from(present))
    assert rank(adapter, [w for w in present if w != gone]) == [
        w for w in rank(adapter, present) if w != gone
    ]


def test_homes_are_spread():
    homes = [rank(f"adapter-{i}", NAMES)[0] for i in range(800)]
    assert all(50 < homes.count(name) < 150 for name in NAMES)


@given(loads, st.sampled_from(ADAPTERS[:5]))
def test_an_adapter_stays_at_home_while_its_home_is_not_overloaded(loads, adapter):
    home = rank(adapter, loads)[0]
    mean = sum(load.tokens for load in loads.values()) / len(loads)
    if loads[home].tokens < max(BUSY_TOKENS, 1.25 * mean):
        assert Balancer(4).choose("request", adapter, loads, 0.0) == home


def hot(adapter):
    """All that two workers have to do, waits at the adapter's home."""
    home, other = rank(adapter, NAMES[:2])
    return {home: load({adapter: 10 * BUSY_TOKENS}), other: load()}


def test_a_hot_adapter_gets_a_second_worker_which_then_answers():
    loads = hot(ADAPTERS[0])
    _, other = rank(ADAPTERS[0], NAMES[:2])
    assert Balancer(2).choose("request", ADAPTERS[0], loads, 0.0) == other
    assert Balancer(1).choose("request", ADAPTERS[0], loads, 0.0) != other


def test_who_is_no_cause_of_the_load_stays():
    """A cold adapter whose home another one keeps busy: moving it would cost a load and free nothing."""
    loads = hot(ADAPTERS[0])
    home = rank(ADAPTERS[0], NAMES[:2])[0]
    cold = next(a for a in ADAPTERS[1:] if rank(a, NAMES[:2])[0] == home)
    assert Balancer(2).choose("request", cold, loads, 0.0) == home


def test_replicas_decay():
    balancer = Balancer(2)
    balancer.choose("request", ADAPTERS[0], hot(ADAPTERS[0]), 0.0)
    calm = dict.fromkeys(NAMES[:2], load())
    assert len(balancer.replicas(ADAPTERS[0], calm, DECAY_S - 1)) == 2
    assert len(balancer.replicas(ADAPTERS[0], calm, DECAY_S)) == 1


def test_what_is_unloaded_is_forgotten():
    balancer = Balancer(2)
    balancer.choose("request", ADAPTERS[0], hot(ADAPTERS[0]), 0.0)
    balancer.forget(ADAPTERS[0])
    assert len(balancer.replicas(ADAPTERS[0], dict.fromkeys(NAMES[:2], load()), 0.0)) == 1
