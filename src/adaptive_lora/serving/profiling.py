"""One look into this process at a time: profiles run in a thread of their own while requests are served."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from adaptive_lora.engine.threads import in_daemon_thread
from adaptive_lora.errors import Conflict

T = TypeVar("T")

MAX_SECONDS: Final = 60.0


class Profiling:
    """Whoever comes second is refused: two profiles would show each other."""

    def __init__(self) -> None:
        self._stop: threading.Event | None = None

    async def run(
        self, profile: Callable[[threading.Event], T], *, first: Callable[[], Awaitable[None]]
    ) -> T:
        """`first`, then `profile` until it ends by itself, or until the caller is cancelled. Raises Conflict,
        and what they raise."""
        if self._stop is not None:
            raise Conflict("a profile is being taken of this process: one at a time")
        stop = self._stop = threading.Event()
        try:
            await first()
        except BaseException:
            self._stop = None
            raise

        def work() -> T:
            try:
                return profile(stop)
            finally:
                self._stop = None

        try:
            return await in_daemon_thread(work)
        except asyncio.CancelledError:
            stop.set()
            raise
