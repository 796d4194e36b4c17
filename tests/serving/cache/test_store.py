"""The memory is bounded in bytes and time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.serving.cache.store import ENTRY_BYTES, MemoryStore


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_was_used_last_stays() -> None:
    evicted = []
    store = MemoryStore(3 * (ENTRY_BYTES + 10), 60.0, on_evict=lambda: evicted.append(1))
    for key in (b"a", b"b", b"c"):
        assert store.write(key, bytes(10))
    assert store.read(b"a") == bytes(10)
    assert store.write(b"d", bytes(10))
    assert [store.read(key) is not None for key in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert len(evicted) == 1


def test_values_expire() -> None:
    clock = Clock()
    store = MemoryStore(10_000, 60.0, clock=clock)
    store.write(b"a", b"1")
    clock.now = 59.9
    assert store.read(b"a") == b"1"
    clock.now = 60.0
    assert store.read(b"a") is None
    assert (store.n_entries, store.n_bytes) == (0, 0)


def test_a_value_that_fits_nowhere_evicts_nothing() -> None:
    store = MemoryStore(2 * ENTRY_BYTES, 60.0)
    assert store.write(b"a", b"1")
    assert not store.write(b"b", bytes(2 * ENTRY_BYTES))
    assert store.read(b"a") == b"1"


@given(st.lists(st.tuples(st.binary(max_size=1), st.integers(0, 900), st.booleans())))
def test_the_bound_holds_and_what_is_read_was_written_last(
    steps: list[tuple[bytes, int, bool]],
) -> None:
    store = MemoryStore(2_000, 60.0)
    written: dict[bytes, bytes] = {}
    for key, size, is_write in steps:
        if is_write and store.write(key, bytes(size)):
            written[key] = bytes(size)
        found = store.read(key)
        assert found is None or found == written[key]
        assert 0 <= store.n_bytes <= 2_000
    kept = [key for key in written if store.read(key) is not None]
    assert store.n_bytes == sum(len(written[key]) + ENTRY_BYTES for key in kept)
    assert store.n_entries == len(kept)
