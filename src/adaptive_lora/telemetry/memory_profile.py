"""What this process allocates and keeps, by line of Python: tracemalloc, switched on for a while only.

It slows Python down while it is on, by about half, and takes memory of its own. What C libraries allocate by
themselves is only in the process's total.
"""

from __future__ import annotations

import threading
import time
import tracemalloc
from dataclasses import dataclass
from typing import Final

import psutil

from adaptive_lora.telemetry.cpu_profile import short_path

MAX_LINES: Final = 200


@dataclass(frozen=True, slots=True)
class Line:
    """Of one line of source: what was allocated there and is still in use."""

    file: str
    line: int
    n_bytes: int
    n_blocks: int


@dataclass(frozen=True, slots=True)
class MemoryProfile:
    """`lines`: the largest first. `traced_bytes`: what all lines keep; `overhead_bytes`: what it took."""

    lines: tuple[Line, ...]
    traced_bytes: int
    overhead_bytes: int
    rss_before: int
    rss_after: int
    took_s: float


def profile_memory(seconds: float, n_lines: int, stop: threading.Event) -> MemoryProfile:
    """What is allocated within `seconds`, or until `stop` is set, and kept until then. Blocking."""
    began = time.perf_counter()
    process = psutil.Process()
    rss_before = process.memory_info().rss
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    try:
        stop.wait(seconds)
        overhead = tracemalloc.get_tracemalloc_memory()
        snapshot = tracemalloc.take_snapshot()
    finally:
        if not was_tracing:
            tracemalloc.stop()
    own = tracemalloc.Filter(False, tracemalloc.__file__)
    found = snapshot.filter_traces([own]).statistics("lineno")
    return MemoryProfile(
        lines=tuple(
            Line(short_path(each.traceback[0].filename), each.traceback[0].lineno, each.size, each.count)
            for each in found[: min(n_lines, MAX_LINES)]
        ),
        traced_bytes=sum(each.size for each in found),
        overhead_bytes=overhead,
        rss_before=rss_before,
        rss_after=process.memory_info().rss,
        took_s=time.perf_counter() - began,
    )
