"""ScheduledEngine: any engine behind an admission queue, which decides who enters it and when.

The inner engine gets just enough requests to fill its batch, and never more adapters than it has slots; it
keeps its own order among those. What the queue decides is in `admission`; here are its clock and its tasks.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from adaptive_lora.engine import collect
from adaptive_lora.engine.admission import Admission, AdmissionQueue, Ticket
from adaptive_lora.engine.base import Engine
from adaptive_lora.errors import EngineError, EngineNotReady, InvalidRequest, UnknownAdapter, Unsupported
from adaptive_lora.telemetry import tracing
from adaptive_lora.telemetry.adapters import AdapterMetrics
from adaptive_lora.types import (
    BASE,
    AdapterVersion,
    Completion,
    DeviceMemory,
    EngineStats,
    GenerateRequest,
    Prompt,
    Residency,
    SamplingConfig,
    TokenChunk,
)

NUM_PREFETCHED = 2
"""Adapters that are read ahead: the next one to get a slot, and the one after it."""


@runtime_checkable
class Prefetching(Protocol):
    """An engine that can read an adapter's weights ahead of their use."""

    async def prefetch(self, adapter_id: str) -> None:
        """Begin to bring the weights from disk into host memory, while requests run. A hint: never fails for
        an adapter that is gone, does nothing for one that is there."""
        ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    ticket: Ticket
    turn: asyncio.Future[bool]
    """True when it is admitted, False when it is aborted."""
    since: float


class ScheduledEngine:
    """Adds to `inner` an order of admission, and metrics of the adapters. How many wait is for the caller to
    bound.

    Bad parameters are found by `inner`, after the wait. Who waits for an adapter that is
    unloaded is still served.
    """

    def __init__(
        self,
        inner: Engine,
        queue: AdmissionQueue,
        *,
        prefetch: bool = True,
        metrics: AdapterMetrics | None = None,
    ) -> None:
        self.inner = inner
        self.queue = queue
        self.model_name = inner.model_name
        self.max_model_len = inner.max_model_len
        self._prefetcher = inner if prefetch and isinstance(inner, Prefetching) else None
        self._prefetching: asyncio.Task[None] | None = None
        self._metrics = metrics or AdapterMetrics()
        self._metrics.residency.read = self._by_agent
        self._where: dict[str, Residency] = {}  # as last heard, and changed by what the queue does
        self._waiting: dict[str, _Waiting] = {}  # by request id
        self._inside: dict[str, Ticket] = {}
        self._leaving: dict[str, asyncio.Event] = {}  # adapters that are unloaded once nobody waits for them

    @property
    def adapters(self) -> Mapping[str, AdapterVersion]:
        if not self._leaving:
            return self.inner.adapters
        return MappingProxyType({i: a for i, a in self.inner.adapters.items() if i not in self._leaving})

    async def start(self) -> None:
        await self.inner.start()
        self.max_model_len = self.inner.max_model_len

    async def stop(self) -> None:
        for waiting in list(self._waiting.values()):
            self._refuse(waiting)
        if self._prefetching is not None:
            self._prefetching.cancel()
        await self.inner.stop()

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        return self._generate(request)

    async def _generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        await self._known(request.adapter_id)
        n = request.sampling.n
        async with self._place(request.request_id, request.adapter_id, n) as is_admitted:
            if is_admitted:
                async with aclosing(self.inner.generate(request)) as chunks:  # type: ignore[type-var]
                    async for chunk in chunks:
                        yield chunk
                return
        n_prompt_tokens = await self._count_if_alive(request.prompt)
        for index in range(n):
            yield TokenChunk(index, "", 0, n_prompt_tokens, finish_reason="abort")

    async def generate_batch(
        self,
        prompts: Sequence[Prompt],
        config: SamplingConfig | None = None,
        adapter_ids: Sequence[str | None] | None = None,
    ) -> list[Completion]:
        return await collect.complete_batch(self, prompts, config, adapter_ids)

    async def answer_logprobs(
        self, prompt: Prompt, answer: str, adapter_id: str | None = None
    ) -> tuple[float, ...]:
        await self._known(adapter_id)
        async with self._place(f"score-{uuid.uuid4().hex}", adapter_id, 1) as is_admitted:
            if not is_admitted:
                raise EngineNotReady("the engine stopped while the request was waiting")
            return await self.inner.answer_logprobs(prompt, answer, adapter_id)

    async def load(self, adapter: AdapterVersion) -> None:
        if (leaving := self._leaving.pop(adapter.id, None)) is not None:
            leaving.set()
        is_new = adapter.id not in self.inner.adapters
        started = time.perf_counter()
        await self.inner.load(adapter)
        if is_new:
            self._metrics.loaded(adapter.name, seconds=time.perf_counter() - started)
            await self._observe()

    async def unload(self, adapter_id: str) -> None:
        await self._known(adapter_id)
        name = self.inner.adapters[adapter_id].name
        nobody_waits = self._leaving[adapter_id] = asyncio.Event()
        if self.queue.asks_for(adapter_id):
            await nobody_waits.wait()
        if self._leaving.get(adapter_id) is not nobody_waits:
            return  # loaded again meanwhile
        del self._leaving[adapter_id]
        await self.inner.unload(adapter_id)
        self.queue.forget(adapter_id)
        self._where.pop(adapter_id, None)
        if not any(adapter.name == name for adapter in self.inner.adapters.values()):
            self._metrics.forget(name)
        self._pump()

    async def pin(self, adapter_id: str) -> None:
        await self._known(adapter_id)
        if self.queue.is_pinned(adapter_id):
            return
        self.queue.pin(adapter_id)  # from now on nobody enters who would need the slot
        try:
            await self.inner.pin(adapter_id)
        except BaseException:
            self.queue.unpin(adapter_id)
            raise
        finally:
            self._pump()
        await self._observe()

    async def unpin(self, adapter_id: str) -> None:
        await self._known(adapter_id)
        await self.inner.unpin(adapter_id)
        self.queue.unpin(adapter_id)
        self._pump()

    async def residency(self) -> Mapping[str, Residency]:
        self._where = dict(await self.inner.residency())
        self.queue.observe([i for i, where in self._where.items() if where == "slot"])
        return {i: where for i, where in self._where.items() if i not in self._leaving}

    async def list(self) -> list[AdapterVersion]:
        return [adapter for adapter in await self.inner.list() if adapter.id not in self._leaving]

    async def abort(self, request_id: str) -> None:
        if (waiting := self._waiting.get(request_id)) is not None:
            self._refuse(waiting)
        else:
            await self.inner.abort(request_id)

    async def stats(self) -> EngineStats:
        stats = await self.inner.stats()
        return replace(stats, waiting=stats.waiting + len(self.queue), loaded_adapters=len(self.adapters))

    async def device_memory(self) -> Sequence[DeviceMemory]:
        return await self.inner.device_memory()

    async def count_tokens(self, prompt: Prompt) -> int:
        return await self.inner.count_tokens(prompt)

    @asynccontextmanager
    async def _place(self, request_id: str, adapter_id: str | None, n_places: int) -> AsyncIterator[bool]:
        """Wait for a place in the engine, and give it back. False if the request was aborted instead."""
        if request_id in self._waiting or request_id in self._inside:
            raise InvalidRequest("a request with this id is running; ids must be unique")
        ticket = self.queue.add(request_id, adapter_id, n_places=max(n_places, 1))
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        waiting = self._waiting[request_id] = _Waiting(ticket, turn, time.perf_counter())
        trace = tracing.running(request_id)
        trace.queued()
        try:
            self._pump()
            is_admitted = await turn
            trace.admitted()
            yield is_admitted
        finally:
            if self._waiting.get(request_id) is waiting:
                self._refuse(waiting)
            elif self._inside.get(request_id) is ticket:
                del self._inside[request_id]
                self.queue.release(ticket)
            self._pump()
            if adapter_id in self._leaving and not self.queue.asks_for(adapter_id):
                self._leaving[adapter_id].set()

    def _refuse(self, waiting: _Waiting) -> None:
        """Take a request out of the queue; who waits for its turn learns that it was aborted."""
        del self._waiting[waiting.ticket.request_id]
        self.queue.cancel(waiting.ticket)
        if not waiting.turn.done():
            waiting.turn.set_result(False)

    def _pump(self) -> None:
        """Admit who can go. Called after everything that may let somebody go."""
        while (admission := self.queue.next()) is not None:
            waiting = self._waiting.pop(admission.ticket.request_id)
            self._inside[admission.ticket.request_id] = admission.ticket
            self._count(admission, time.perf_counter() - waiting.since)
            if not waiting.turn.done():
                waiting.turn.set_result(True)
        self._read_ahead()

    def _count(self, admission: Admission, waited_s: float) -> None:
        adapter_id = admission.ticket.adapter_id
        if adapter_id is None:
            self._metrics.waited(BASE, seconds=waited_s)
            return
        adapters = self.inner.adapters
        agent = adapters[adapter_id].name
        self._metrics.waited(agent, seconds=waited_s)
        self._metrics.admitted(agent, is_hit=admission.is_hit)
        self._where[adapter_id] = "slot"
        if (evicted := admission.evicted) is not None and evicted in adapters:
            self._where[evicted] = "host"
            self._metrics.evicted(adapters[evicted].name)

    def _read_ahead(self) -> None:
        if self._prefetcher is None or (self._prefetching is not None and not self._prefetching.done()):
            return
        upcoming = self.queue.upcoming(NUM_PREFETCHED)
        if upcoming:
            self._prefetching = asyncio.create_task(_prefetch(self._prefetcher, upcoming))

    async def _observe(self) -> None:
        """Ask the engine where its adapters are: it moves some by itself, when it loads one."""
        with suppress(Unsupported):
            await self.residency()

    def _by_agent(self) -> Mapping[str, Sequence[Residency]]:
        places: dict[str, list[Residency]] = {}
        for adapter_id, adapter in self.inner.adapters.items():
            places.setdefault(adapter.name, []).append(self._where.get(adapter_id, "disk"))
        return places

    async def _known(self, adapter_id: str | None) -> None:
        if adapter_id is not None and adapter_id not in self.adapters:
            await self.inner.list()  # an engine that is not ready, or dead, says so first
            raise UnknownAdapter(f"no adapter {adapter_id!r} is loaded")

    async def _count_if_alive(self, prompt: Prompt) -> int:
        try:
            return await self.inner.count_tokens(prompt)
        except EngineError:
            return 0


async def _prefetch(engine: Prefetching, adapter_ids: Sequence[str]) -> None:
    with suppress(EngineError):  # who asks for the adapter will hear of it
        for adapter_id in adapter_ids:
            await engine.prefetch(adapter_id)
