"""Where this process spends its time: a thread looks at all others' stacks, a hundred times a second.

Serving goes on meanwhile, at the cost of some percent. A thread is looked at when it lets go of the
interpreter's lock, so that what never does (a long call into C) is charged to the function around it.
Right before a look threads are asked to let go within microseconds: at the usual 5 ms an event loop lets
go by itself first, in its selector, and all its work would be charged to that.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, Literal, Self

INTERVAL_S: Final = 0.01
_ASKING_S: Final = 0.002
"""The part of an interval, at most, in which threads are asked to let go at once: it costs switches."""
_AT_ONCE_S: Final = 1e-6
MAX_DEPTH: Final = 128
MAX_STACKS: Final = 20_000
"""Different ones; beyond them time is counted as "(other)"."""
_OTHER: Final = ("(other)", "", 0)

Frame = tuple[str, str, int]
"""A function's name, file and first line."""
Stack = tuple[str, tuple[Frame, ...]]
"""A thread's name, and its frames, outermost first."""


@dataclass(frozen=True, slots=True)
class CpuProfile:
    """Seconds by stack. `clock` is "cpu" if they are CPU time, "wall" where the system does not tell that of
    a thread: then waiting counts, too."""

    seconds: dict[Stack, float]
    clock: Literal["cpu", "wall"]
    n_samples: int
    took_s: float

    def collapsed(self) -> str:
        """One line for each stack, `thread;outer;inner microseconds`: what flame graph tools read."""
        lines = (
            f"{';'.join((thread, *map(_label, frames)))} {round(seconds * 1e6)}"
            for (thread, frames), seconds in sorted(self.seconds.items(), key=lambda item: -item[1])
        )
        return "".join(f"{line}\n" for line in lines)

    def speedscope(self, name: str) -> dict[str, Any]:
        """The document that https://www.speedscope.app reads, one profile for each thread."""
        index: dict[Frame, int] = {}
        threads: dict[str, list[tuple[tuple[Frame, ...], float]]] = {}
        for (thread, frames), seconds in self.seconds.items():
            threads.setdefault(thread, []).append((frames, seconds))
            for frame in frames:
                index.setdefault(frame, len(index))
        return {
            "$schema": "https://www.speedscope.app/file-format-schema.json",
            "name": f"{name} ({self.clock} time)",
            "exporter": "adaptive-lora",
            "activeProfileIndex": 0,
            "shared": {"frames": [{"name": n, "file": file, "line": line} for n, file, line in index]},
            "profiles": [
                {
                    "type": "sampled",
                    "name": thread,
                    "unit": "seconds",
                    "startValue": 0,
                    "endValue": sum(seconds for _, seconds in stacks),
                    "samples": [[index[frame] for frame in frames] for frames, _ in stacks],
                    "weights": [seconds for _, seconds in stacks],
                }
                for thread, stacks in sorted(threads.items(), key=lambda item: -sum(s for _, s in item[1]))
            ],
        }


def profile_cpu(seconds: float, stop: threading.Event) -> CpuProfile:
    """Look for `seconds`, or until `stop` is set. Blocking; the calling thread is not looked at."""
    began = time.perf_counter()
    found: defaultdict[Stack, float] = defaultdict(float)
    n_samples = 0
    with _Clock() as clock:
        clock.spent(threading.enumerate())
        while not stop.wait(INTERVAL_S - _ASKING_S):
            _wait_for_any_moment()
            n_samples += 1
            threads = {thread.ident: thread for thread in threading.enumerate()}
            spent = clock.spent(threads.values())
            for ident, frame in sys._current_frames().items():
                thread = threads.get(ident)
                if thread is None or ident == threading.get_ident():
                    continue
                if (time_s := spent.get(thread, 0.0)) > 0:
                    stack = (thread.name, _frames(frame))
                    if stack not in found and len(found) >= MAX_STACKS:
                        stack = (thread.name, (_OTHER,))
                    found[stack] += time_s
            if time.perf_counter() - began >= seconds:
                break
        return CpuProfile(dict(found), clock.name, n_samples, time.perf_counter() - began)


def _wait_for_any_moment() -> None:
    """Hold the interpreter's lock again wherever the others are just then, not where they let go by
    themselves."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_AT_ONCE_S)
    try:
        time.sleep(random.uniform(0, _ASKING_S))
    finally:
        sys.setswitchinterval(usual)


class _Clock:
    """How much time each thread has taken since it was last asked for."""

    def __init__(self) -> None:
        self._files: dict[threading.Thread, int] = {}
        self._totals: dict[threading.Thread, float] = {}
        self._asked_at = time.perf_counter()
        is_told = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").exists()
        self.name: Literal["cpu", "wall"] = "cpu" if is_told else "wall"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            os.close(file)

    def spent(self, threads: Iterable[threading.Thread]) -> dict[threading.Thread, float]:
        """Seconds, by thread."""
        if self.name == "wall":
            now = time.perf_counter()
            elapsed, self._asked_at = now - self._asked_at, now
            return dict.fromkeys(threads, elapsed)
        spent = {}
        for thread in threads:
            total = self._total(thread)
            if total is not None:
                spent[thread] = total - self._totals.get(thread, total)
                self._totals[thread] = total
        return spent

    def _total(self, thread: threading.Thread) -> float | None:
        """CPU seconds since it began; None if it has ended."""
        try:
            if thread not in self._files:
                path = f"/proc/self/task/{thread.native_id}/schedstat"
                self._files[thread] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return int(os.pread(self._files[thread], 64, 0).split()[0]) / 1e9
        except (OSError, IndexError):
            return None


def _frames(frame: FrameType | None) -> tuple[Frame, ...]:
    frames: list[Frame] = []
    while frame is not None and len(frames) < MAX_DEPTH:
        code = frame.f_code
        frames.append((code.co_qualname, short_path(code.co_filename), code.co_firstlineno))
        frame = frame.f_back
    return tuple(reversed(frames))


_shortened: dict[str, str] = {}


def short_path(file: str) -> str:
    """The path from where Python found it on: nothing of this machine's folders."""
    if file not in _shortened:
        roots = [root for root in sys.path if root and file.startswith(root + os.sep)]
        _shortened[file] = file[len(max(roots, key=len)) + 1 :] if roots else Path(file).name
    return _shortened[file]


def _label(frame: Frame) -> str:
    name, file, line = frame
    return f"{name} ({file}:{line})".replace(";", ",") if file else name
