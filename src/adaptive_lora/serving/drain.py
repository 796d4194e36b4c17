"""How a process stops serving without breaking what it has begun.

    serving ──▶ leaving ──────────────▶ closed ───────────────▶ ended
                not ready any more:     new requests get 503,   what still ran has got an
                balancers take time     what runs finishes      explicit error
                to see that; serves on

`run` goes all the way; `hurry` ends every wait of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from adaptive_lora.errors import ShuttingDown
from adaptive_lora.serving.context import RequestContext

_log = logging.getLogger(__name__)

LAST_WORDS_S = 1.0
"""How long a client may take to receive the error that ends its answer."""


class Drain:
    """The requests inside one process, and how far it is with leaving. One event loop."""

    def __init__(self) -> None:
        self.leaving = asyncio.Event()
        """Set once it is known that the process will end: begin nothing that can as well run elsewhere."""
        self.is_closed = False
        """New requests are refused."""
        self._hurried = asyncio.Event()
        self._inside: dict[asyncio.Task[None], RequestContext] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def inside(self, task: asyncio.Task[None], context: RequestContext) -> Iterator[None]:
        """Around a request that is being served by `task`: it is waited for, and `end` reaches it."""
        self._inside[task] = context
        self._empty.clear()
        try:
            yield
        finally:
            del self._inside[task]
            if not self._inside:
                self._empty.set()

    def hurry(self) -> None:
        """Do not wait any more: neither for balancers nor for requests."""
        self._hurried.set()

    async def run(self, *, wait_s: float, finish_s: float) -> None:
        """Serve on for `wait_s`, then let what runs finish for at most `finish_s`, then end it."""
        self.leaving.set()
        if wait_s > 0:
            _log.info("leaving: not ready any more, serving on for %g s", wait_s)
            await _first_of(wait_s, self._hurried)
        self.is_closed = True
        if self._inside:
            _log.info("closed: %d requests have %g s to finish", len(self._inside), finish_s)
            await _first_of(finish_s, self._empty, self._hurried)
        if self._inside:
            _log.warning("%d requests could not finish", len(self._inside))
            self._end()
            await _first_of(2 * LAST_WORDS_S, self._empty)

    def _end(self) -> None:
        for task, context in self._inside.items():
            context.interruption = ShuttingDown(
                "the server stopped before the answer was complete: try again"
            )
            task.cancel()


async def _first_of(seconds: float, *events: asyncio.Event) -> None:
    """Until one of them is set, or the time is over."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
