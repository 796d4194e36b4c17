"""One generation that several identical requests read as it comes.

    engine ──chunks──▶ Flight, in a task of its own ──▶ reader, reader, reader ...

Each reader sees every chunk from the first, at its own speed. One that goes away takes nothing from the
others; when the last one has gone, the generation is stopped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Final

from adaptive_lora.errors import DeadlineExceeded, EngineNotReady
from adaptive_lora.types import TokenChunk

_log = logging.getLogger(__name__)

Chunks = AsyncGenerator[TokenChunk, None]

BURST_CHUNKS: Final = 64
"""Chunks that are there already go out so many at a time: between them the event loop serves others."""


class Flight:
    """A generation that runs. Its chunks stay until it and its last reader have gone."""

    def __init__(
        self,
        chunks: Chunks,
        *,
        deadline: float,
        keep: Callable[[list[TokenChunk]], Awaitable[None]],
        on_end: Callable[[Flight], None],
    ) -> None:
        """`chunks` end by themselves at `deadline`, on the event loop's clock. `keep` gets those of an answer
        that is complete. `on_end` is called when nobody can join any more; it may be called again.
        """
        self._source = chunks
        self._deadline = deadline
        self._keep = keep
        self._on_end = on_end
        self._chunks: list[TokenChunk] = []
        self._complete = False
        self._error: Exception | None = None
        self._traceback: TracebackType | None = None
        self._n_readers = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._task = asyncio.create_task(self._run())

    async def read(self, *, deadline: float) -> Chunks:
        """Its chunks, from the first. Raises what the generation raises, and DeadlineExceeded."""
        self._n_readers += 1
        n_read = 0
        try:
            while True:
                while n_read < len(self._chunks):
                    if n_read % BURST_CHUNKS == 0:
                        await asyncio.sleep(0)
                    n_read += 1
                    yield self._chunks[n_read - 1]
                if self._complete:
                    return
                if self._error is not None:
                    raise self._error.with_traceback(self._traceback)  # not that of the reader before
                await self._more(deadline)
        finally:
            self._n_readers -= 1
            if not self._n_readers and not self._complete:
                self._on_end(self)
                await self.stop()

    async def stop(self) -> None:
        """Stop the generation, and wait until the engine has let go of it. Who still reads gets
        EngineNotReady."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self._end(EngineNotReady("the server is shutting down"))  # a task cancelled at once never ran

    async def _run(self) -> None:
        try:
            async with aclosing(self._source) as chunks:
                async for chunk in chunks:
                    self._chunks.append(chunk)
                    self._wake()
        except Exception as error:
            self._end(error)
            return
        self._complete = True
        self._wake()
        try:
            await self._keep(self._chunks)
        except Exception:
            _log.exception("an answer could not be kept")
        finally:
            self._on_end(self)

    def _end(self, error: Exception) -> None:
        if not self._complete and self._error is None:
            self._error, self._traceback = error, error.__traceback__
        self._on_end(self)
        self._wake()

    async def _more(self, deadline: float) -> None:
        """Until there is a chunk, or no more of them."""
        news = asyncio.get_running_loop().create_future()
        self._waiting.append(news)
        try:
            if deadline >= self._deadline:
                # The generation's own deadline comes first: it must end in that, and be counted so.
                await news
            else:
                await _before(deadline, news)
        finally:
            if news.cancelled():
                with suppress(ValueError):  # woken between its end and now
                    self._waiting.remove(news)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for news in waiting:
            if not news.done():
                news.set_result(None)


async def _before(deadline: float, news: asyncio.Future[None]) -> None:
    """Wait for `news`. Raises DeadlineExceeded."""
    try:
        async with asyncio.timeout_at(deadline) as timer:
            await news
    except TimeoutError:
        if not timer.expired():
            raise
        raise DeadlineExceeded("the answer was not complete before the request's deadline") from None
