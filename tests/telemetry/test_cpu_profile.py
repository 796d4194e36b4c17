from __future__ import annotations

import hashlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from adaptive_lora.telemetry import cpu_profile
from adaptive_lora.telemetry.cpu_profile import CpuProfile, profile_cpu


def spins(stop: threading.Event) -> None:
    while not stop.is_set():
        works()


def works() -> None:
    for i in range(2_000):
        hashlib.sha256(str(i).encode()).digest()


def waits(stop: threading.Event) -> None:
    stop.wait()


@contextmanager
def running(*works: Callable[[threading.Event], None]) -> Iterator[None]:
    stop = threading.Event()
    threads = [threading.Thread(target=work, args=(stop,), name=work.__name__) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def by_thread(found: CpuProfile) -> dict[str, float]:
    totals: dict[str, float] = {}
    for (thread, _), seconds in found.seconds.items():
        totals[thread] = totals.get(thread, 0.0) + seconds
    return totals


def test_who_computes_is_charged_and_who_waits_is_not() -> None:
    with running(spins, waits):
        found = profile_cpu(0.5, threading.Event())
    totals = by_thread(found)
    if found.clock == "cpu":
        assert totals["spins"] > 20 * totals.get("waits", 0.0)
    names = [[name for name, _, _ in frames] for (thread, frames) in found.seconds if thread == "spins"]
    assert any(stack[-2:] == ["spins", "works"] for stack in names)
    assert threading.current_thread().name not in totals, "who looks is not looked at"


def test_threads_take_turns_as_before() -> None:
    usual = sys.getswitchinterval()
    with running(spins):
        profile_cpu(0.1, threading.Event())
    assert sys.getswitchinterval() == usual


def test_where_a_threads_time_is_not_told_waiting_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_profile.Path, "exists", lambda path: False)
    with running(waits):
        found = profile_cpu(0.2, threading.Event())
    assert found.clock == "wall"
    assert by_thread(found)["waits"] > 0


def test_threads_may_begin_and_end_meanwhile() -> None:
    def breeds(stop: threading.Event) -> None:
        while not stop.is_set():
            child = threading.Thread(target=works)
            child.start()
            child.join()

    with running(breeds):
        assert profile_cpu(0.5, threading.Event()).n_samples > 0


def test_it_ends_when_it_is_told_to() -> None:
    stop = threading.Event()
    stop.set()
    assert profile_cpu(3600, stop).n_samples == 0


def test_different_stacks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_profile, "MAX_STACKS", 0)
    with running(spins):
        found = profile_cpu(0.2, threading.Event())
    assert {frames for _, frames in found.seconds} == {(("(other)", "", 0),)}


FOUND = CpuProfile(
    {
        ("main", (("a", "x.py", 1), ("b", "y.py", 2))): 0.25,
        ("main", (("a", "x.py", 1),)): 0.5,
        ("other", (("c;d", "z.py", 3),)): 0.125,
    },
    "cpu",
    100,
    1.0,
)


def test_collapsed_stacks() -> None:
    assert FOUND.collapsed().splitlines() == [
        "main;a (x.py:1) 500000",
        "main;a (x.py:1);b (y.py:2) 250000",
        "other;c,d (z.py:3) 125000",
    ]


def test_speedscopes_document() -> None:
    document = FOUND.speedscope("gateway")
    frames = document["shared"]["frames"]
    assert [frame["name"] for frame in frames] == ["a", "b", "c;d"]
    main, other = document["profiles"]
    assert (main["name"], main["samples"], main["weights"]) == ("main", [[0, 1], [0]], [0.25, 0.5])
    assert (main["type"], main["unit"], main["endValue"]) == ("sampled", "seconds", 0.75)
    assert other["samples"] == [[2]]


def test_paths_say_nothing_of_this_machine() -> None:
    with running(spins):
        found = profile_cpu(0.2, threading.Event())
    files = {file for _, frames in found.seconds for _, file, _ in frames}
    assert "threading.py" in files
    assert not [file for file in files if re.match(r"/|[A-Z]:", file)]
