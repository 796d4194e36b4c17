"""The worker's endpoints, over any Engine. `engine/remote/wire.py` says what goes in and out."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from adaptive_lora.engine.base import Engine
from adaptive_lora.engine.remote import wire
from adaptive_lora.errors import (
    AdapterError,
    AdaptiveLoraError,
    Conflict,
    EngineError,
    InvalidRequest,
    NotFound,
)
from adaptive_lora.telemetry import tracing
from adaptive_lora.telemetry.tracing import Trace, parse_parent
from adaptive_lora.types import AdapterVersion, GenerateRequest, TokenChunk

_log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_BODY_BYTES = 16 << 20
STATUSES = (
    (InvalidRequest, 400),
    (NotFound, 404),
    (Conflict, 409),
    (AdapterError, 422),
    (AdaptiveLoraError, 503),
)
"""The first that fits. 503: another worker may do better."""

Find = Callable[[str], Awaitable[AdapterVersion]]
"""An adapter's id to its verified files; raises UnknownAdapter if this worker cannot get them."""


class Endpoints:
    """One worker: an engine, what it is, and where its adapters' files are."""

    def __init__(
        self,
        engine: Engine,
        info: wire.WorkerInfo,
        find: Find,
        *,
        on_loaded: Callable[[AdapterVersion], None] = lambda adapter: None,
        on_unloaded: Callable[[str], None] = lambda adapter_id: None,
    ) -> None:
        self._engine = engine
        self._info = info
        self._find = find
        self._pinned: set[str] = set()
        self._on_loaded = on_loaded
        self._on_unloaded = on_unloaded
        self._changing: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def router(self) -> APIRouter:
        router = APIRouter(prefix=wire.PREFIX, include_in_schema=False)
        for method, path, endpoint in (
            ("GET", "/worker", self.worker),
            ("GET", "/stats", self.stats),
            ("GET", "/device-memory", self.device_memory),
            ("POST", "/generate", self.generate),
            ("POST", "/count-tokens", self.count_tokens),
            ("POST", "/score", self.score),
            ("PUT", "/adapters/{adapter_id}", self.load),
            ("DELETE", "/adapters/{adapter_id}", self.unload),
            ("PUT", "/adapters/{adapter_id}/pin", self.pin),
            ("DELETE", "/adapters/{adapter_id}/pin", self.unpin),
        ):
            router.add_api_route(path, _answering(endpoint), methods=[method])
        return router

    async def worker(self, request: Request) -> Response:
        return _json(self._info)

    async def stats(self, request: Request) -> Response:
        stats = await self._engine.stats()
        return _json(
            wire.WorkerStats(
                boot_id=self._info.boot_id,
                running=stats.running,
                waiting=stats.waiting,
                kv_cache_usage=stats.kv_cache_usage,
                gpu_memory_usage=stats.gpu_memory_usage,
                residency=await self._engine.residency(),
                pinned=tuple(sorted(self._pinned)),
            )
        )

    async def device_memory(self, request: Request) -> Response:
        return _json(await self._engine.device_memory())

    async def generate(self, request: Request) -> Response:
        """The first chunk is waited for: what fails before it has a status of its own."""
        _continue_trace(request)
        body = await _read(request, GenerateRequest)
        if body.adapter_id is not None:
            await self.ensure(body.adapter_id)
        chunks = self._engine.generate(body)
        if not isinstance(chunks, AsyncGenerator):
            raise TypeError("an engine's stream must be closable")
        try:
            first = await _unless_gone(request, anext(chunks))
        except BaseException:
            await chunks.aclose()
            raise
        return _EventStream(first, chunks)

    async def count_tokens(self, request: Request) -> Response:
        body = await _read(request, wire.CountTokens)
        return _json(wire.TokenCount(await self._engine.count_tokens(body.prompt)))

    async def score(self, request: Request) -> Response:
        body = await _read(request, wire.Score)
        if body.adapter_id is not None:
            await self.ensure(body.adapter_id)
        return _json(
            wire.Scored(await self._engine.answer_logprobs(body.prompt, body.answer, body.adapter_id))
        )

    async def load(self, request: Request) -> Response:
        await self.ensure(request.path_params["adapter_id"])
        return Response(status_code=204)

    async def unload(self, request: Request) -> Response:
        adapter_id = request.path_params["adapter_id"]
        async with self._changing[adapter_id]:
            self._on_unloaded(adapter_id)
            await self._engine.unload(adapter_id)
            self._pinned.discard(adapter_id)
        return Response(status_code=204)

    async def pin(self, request: Request) -> Response:
        adapter_id = request.path_params["adapter_id"]
        await self.ensure(adapter_id)
        await self._engine.pin(adapter_id)
        self._pinned.add(adapter_id)
        return Response(status_code=204)

    async def unpin(self, request: Request) -> Response:
        adapter_id = request.path_params["adapter_id"]
        await self._engine.unpin(adapter_id)
        self._pinned.discard(adapter_id)
        return Response(status_code=204)

    async def ensure(self, adapter_id: str) -> None:
        """Load the adapter unless it is. Raises UnknownAdapter if its files are not to be had."""
        if adapter_id in self._engine.adapters:
            return
        async with self._changing[adapter_id]:
            if adapter_id not in self._engine.adapters:
                adapter = await self._find(adapter_id)
                await self._engine.load(adapter)
                self._on_loaded(adapter)


class _EventStream(StreamingResponse):
    """Ends with `[DONE]` or an error, unless the reader goes away: then the engine's request is aborted."""

    def __init__(self, first: TokenChunk, chunks: AsyncGenerator[TokenChunk, None]) -> None:
        self._chunks = chunks
        super().__init__(_events(first, chunks), media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._chunks):  # Starlette leaves them to the garbage collector
            await super().__call__(scope, receive, send)


async def _events(first: TokenChunk, chunks: AsyncGenerator[TokenChunk, None]) -> AsyncGenerator[bytes, None]:
    try:
        yield wire.chunk_event(first)
        async for chunk in chunks:
            yield wire.chunk_event(chunk)
    except AdaptiveLoraError as error:
        yield wire.error_event(error)
    except Exception:
        _log.exception("a stream failed")
        yield wire.error_event(EngineError("the worker failed on this request; see its log"))
    else:
        yield wire.DONE


def _continue_trace(request: Request) -> None:
    """The gateway's trace is this request's: of its context, which ends with it."""
    headers = request.headers
    parent = parse_parent(headers.get("traceparent", "").encode(), headers.get("tracestate", "").encode())
    if parent is not None:
        ids = parent.trace_id, parent.span_id
        tracing.enter(Trace(*ids, is_sampled=parent.is_sampled, state=parent.state))


async def _unless_gone(request: Request, answer: Awaitable[T]) -> T:
    """Wait for `answer`, but not longer than the client does: what it no longer waits for must not run."""
    waiting = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise InvalidRequest("the client is gone")
        return waiting.result()
    finally:
        for task in (waiting, gone):
            task.cancel()
        await asyncio.gather(waiting, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _read(request: Request, kind: type[T]) -> T:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise InvalidRequest(f"the body is larger than {MAX_BODY_BYTES:,} bytes")
    try:
        return wire.decode(body, kind)
    except ValueError as error:
        raise InvalidRequest(f"the body is not understood: {error}") from error


def _answering(
    endpoint: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Errors become bodies that `wire.read_error` reads."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except AdaptiveLoraError as error:
            status = next(status for kind, status in STATUSES if isinstance(error, kind))
            return Response(wire.error_body(error), status, media_type="application/json")

    return answer


def _json(value: object) -> Response:
    return Response(wire.encode(value), media_type="application/json")
