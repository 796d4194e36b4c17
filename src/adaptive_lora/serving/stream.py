"""Server-sent events: what a stream is written with, and the response that sends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any, Protocol

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from adaptive_lora.errors import AdaptiveLoraError
from adaptive_lora.serving.context import RequestContext
from adaptive_lora.serving.drain import LAST_WORDS_S
from adaptive_lora.serving.errors import code_of
from adaptive_lora.types import TokenChunk

_log = logging.getLogger(__name__)

MEDIA_TYPE = "text/event-stream"


def sse(event: str, data: dict[str, Any]) -> bytes:
    """One named event."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), msgspec.json.encode(data))


class Wire(Protocol):
    """A format of stream. After `begin` and the chunks comes exactly one of `end` and `error`."""

    def begin(self) -> bytes: ...

    def chunk(self, chunk: TokenChunk) -> bytes: ...

    def end(self) -> bytes: ...

    def error(self, error: BaseException) -> bytes: ...


class EventStream(Response):
    """Sends one request's chunks as events.

    Build it with `open_stream`, which waits for the first chunk: what fails before that answers with a status
    of its own. A later failure becomes the wire's error event, never a silent end. When the client goes away
    this is cancelled (see `middleware.Intake`), which closes `chunks` and so aborts the request in the
    engine.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        wire: Wire,
        first: TokenChunk,
        chunks: AsyncGenerator[TokenChunk, None],
        context: RequestContext,
        *,
        deadline: float,
    ) -> None:
        super().__init__(headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._wire = wire
        self._first = first
        self._chunks = chunks
        self._context = context
        self._deadline = deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._chunks), aclosing(self._events()) as events:
            try:
                # The chunks keep the deadline themselves; this one is for clients that do not read.
                async with asyncio.timeout_at(self._deadline + 1.0):
                    await send(
                        {
                            "type": "http.response.start",
                            "status": self.status_code,
                            "headers": self.raw_headers,
                        }
                    )
                    async for data in events:
                        await send({"type": "http.response.body", "body": data, "more_body": True})
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            except TimeoutError:
                self._context.failed = True
                _log.warning("the client did not read its stream before the deadline; connection dropped")
            except asyncio.CancelledError:
                if self._context.interruption is not None and self._context.status is not None:
                    await self._break_off(self._context.interruption, send)
                raise

    async def _break_off(self, error: AdaptiveLoraError, send: Send) -> None:
        """Tell the client why there is no more, unless it does not read."""
        self._fail(error)
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await send(
                    {"type": "http.response.body", "body": self._wire.error(error), "more_body": False}
                )

    def _fail(self, error: Exception) -> None:
        self._context.failed = True
        self._context.error_code = code_of(error)

    async def _events(self) -> AsyncGenerator[bytes, None]:
        wire = self._wire
        try:
            yield wire.begin() + wire.chunk(self._first)
            async for chunk in self._chunks:
                yield wire.chunk(chunk)
        except AdaptiveLoraError as error:
            self._fail(error)
            _log.warning("stream failed: %s", error.message, extra={"code": error.code})
            yield wire.error(error)
        except Exception as error:
            self._fail(error)
            _log.exception("stream failed")
            yield wire.error(error)
        else:
            yield wire.end()


async def open_stream(
    wire: Wire, chunks: AsyncGenerator[TokenChunk, None], context: RequestContext, *, deadline: float
) -> EventStream:
    """Wait for the first chunk, then hand over. Raises what the engine raises before that."""
    try:
        first = await anext(chunks)
    except BaseException:
        await chunks.aclose()
        raise
    return EventStream(wire, first, chunks, context, deadline=deadline)
