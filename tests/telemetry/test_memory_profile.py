from __future__ import annotations

import threading
import tracemalloc

import pytest

from adaptive_lora.telemetry.memory_profile import profile_memory


class Keeping(threading.Event):
    """Allocates while it is waited for: a megabyte that stays, and one that does not."""

    def wait(self, timeout: float | None = None) -> bool:
        bytearray(1 << 20)
        self.kept = bytearray(1 << 20)
        return False


def test_what_is_kept_is_found_by_line() -> None:
    stop = Keeping()
    found = profile_memory(0.01, 5, stop)
    first = found.lines[0]
    assert first.file.endswith("test_memory_profile.py")
    assert first.line == Keeping.wait.__code__.co_firstlineno + 2
    assert (1 << 20) <= first.n_bytes < (1 << 20) + 1000
    assert len(found.lines) <= 5
    assert found.traced_bytes >= first.n_bytes
    assert found.rss_after > 0
    assert not tracemalloc.is_tracing()


def test_tracing_ends_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        profile_memory(0.01, 5, Broken())
    assert not tracemalloc.is_tracing()


def test_who_traces_already_goes_on() -> None:
    tracemalloc.start()
    try:
        profile_memory(0.01, 5, threading.Event())
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()
