"""RemoteEngine: the engine's contract, kept by a pool of workers.

A request is tried on another worker as long as it has no token: nobody has seen anything of it yet. After its
first token nothing can be repeated without the caller reading something twice, so that a lost worker is an
error then.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

from adaptive_lora.engine import collect
from adaptive_lora.engine.remote.in_flight import Aborted, Attempts, InFlight
from adaptive_lora.engine.remote.pool import Pool
from adaptive_lora.engine.remote.transport import WorkerFailed
from adaptive_lora.engine.remote.worker import Ticket, Worker
from adaptive_lora.engine.salts import check_salt
from adaptive_lora.errors import (
    AdapterError,
    EngineError,
    EngineNotReady,
    InvalidRequest,
    RankTooLarge,
    UnknownAdapter,
    Unsupported,
    WorkerLost,
)
from adaptive_lora.settings import WorkersSettings
from adaptive_lora.types import (
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

_log = logging.getLogger(__name__)
T = TypeVar("T")

CHARS_PER_TOKEN = 4
"""To guess how much work a prompt is, before a worker has counted."""


class RemoteEngine:
    """Drives the workers of `settings`. `model_name` is what the gateway calls the base model."""

    def __init__(self, model_name: str, settings: WorkersSettings, *, max_lora_rank: int) -> None:
        self.model_name = model_name
        self.max_model_len = 0
        self._settings = settings
        self._max_lora_rank = max_lora_rank
        self._pool = Pool(settings)
        self._state = "new"
        self._in_flight: dict[str, InFlight] = {}
        self._ended = asyncio.Condition()

    @property
    def base_fingerprint(self) -> str | None:
        """Of the base model's files, as the workers report it; None if they cannot. Known once started."""
        return self._pool.info.fingerprint if self._pool.info is not None else None

    @property
    def text_fingerprint(self) -> str | None:
        """Of what turns text into tokens, as the workers report it now; None if one cannot, or they
        differ."""
        known = {worker.info.text_fingerprint for worker in self._pool.workers.values() if worker.info}
        return known.pop() if len(known) == 1 else None

    @property
    def n_workers(self) -> int:
        """How many may be asked now."""
        return len(self._pool.usable())

    @property
    def adapters(self) -> Mapping[str, AdapterVersion]:
        return MappingProxyType(self._pool.declared)

    async def start(self) -> None:
        await self._pool.start()
        self.max_model_len = self._pool.max_model_len
        self._state = "ready"

    async def stop(self) -> None:
        if self._state == "ready":
            for request_id in list(self._in_flight):
                await self.abort(request_id)
            await asyncio.sleep(0)  # lets the streams end before their source goes
        self._state = "stopped"
        self._pool.declared.clear()
        await self._pool.stop()

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        return self._generate(request)

    async def _generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        self._check()
        check_salt(request.cache_salt)
        if request.adapter_id is not None:
            self._known(request.adapter_id)
        if request.request_id in self._in_flight:
            raise InvalidRequest("a request with this id is running; ids must be unique")
        running = self._in_flight[request.request_id] = InFlight(request)
        try:
            async with aclosing(self._tried(request, running)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            del self._in_flight[request.request_id]
            async with self._ended:
                self._ended.notify_all()

    async def _tried(self, request: GenerateRequest, running: InFlight) -> AsyncGenerator[TokenChunk, None]:
        """On one worker after another, until the first token."""
        attempts = Attempts(self._settings.max_attempts)
        while True:
            try:
                async with running.interruptible(None):
                    worker = await self._pool.choose(request.request_id, request.adapter_id, attempts.failed)
                if request.adapter_id is not None and request.adapter_id not in worker.loaded:
                    async with running.interruptible(self._settings.first_token_timeout):
                        await self._supply(worker, request.adapter_id)
                async with aclosing(self._streamed(request, running, worker)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except Aborted:
                for chunk in running.aborted_chunks():
                    yield chunk
                return
            except WorkerFailed as failure:
                worker.failed(failure)
                if running.started:
                    raise WorkerLost(
                        f"the worker went away in the middle of the answer ({failure.reason}); ask again"
                    ) from failure
                attempts.count(worker, failure)
            except UnknownAdapter as unknown:
                if running.started or request.adapter_id not in self._pool.declared:
                    raise
                worker.loaded.discard(request.adapter_id)  # it restarted empty: load again, and go on
                attempts.count(None, unknown)
            except AdapterError as refused:
                attempts.count(worker, refused)

    async def _streamed(
        self, request: GenerateRequest, running: InFlight, worker: Worker
    ) -> AsyncGenerator[TokenChunk, None]:
        """The chunks that one worker gives. Raises WorkerFailed when it keeps one waiting."""
        ticket = Ticket(worker, request.adapter_id, _n_tokens(request.prompt, request.sampling))
        try:
            async with aclosing(worker.dialect.generate(request)) as chunks:
                while running.unfinished:
                    limit = (
                        self._settings.chunk_timeout
                        if running.started
                        else self._settings.first_token_timeout
                    )
                    async with running.interruptible(limit):
                        chunk = await anext(chunks, None)
                    if chunk is None:
                        raise WorkerFailed("it ended the answer early")
                    ticket.progress(chunk, is_first=not running.started)
                    running.add(chunk)
                    yield chunk
            worker.breaker.succeeded()
        finally:
            ticket.close()

    async def generate_batch(
        self,
        prompts: Sequence[Prompt],
        config: SamplingConfig | None = None,
        adapter_ids: Sequence[str | None] | None = None,
    ) -> list[Completion]:
        self._check()
        return await collect.complete_batch(self, prompts, config, adapter_ids)

    async def answer_logprobs(
        self, prompt: Prompt, answer: str, adapter_id: str | None = None
    ) -> tuple[float, ...]:
        self._check()
        if adapter_id is not None:
            self._known(adapter_id)
        return await self._asked(
            adapter_id, lambda worker: worker.dialect.answer_logprobs(prompt, answer, adapter_id)
        )

    async def count_tokens(self, prompt: Prompt) -> int:
        self._check()
        return await self._asked(None, lambda worker: worker.dialect.count_tokens(prompt))

    async def _asked(self, adapter_id: str | None, ask: Callable[[Worker], Awaitable[T]]) -> T:
        """One answer, from one worker after another."""
        attempts = Attempts(self._settings.max_attempts)
        while True:
            worker = await self._pool.choose(uuid.uuid4().hex, adapter_id, attempts.failed)
            try:
                await self._supply(worker, adapter_id)
                answer = await ask(worker)
            except WorkerFailed as failure:
                worker.failed(failure)
                attempts.count(worker, failure)
            except UnknownAdapter as unknown:
                if adapter_id is None or adapter_id not in self._pool.declared:
                    raise
                worker.loaded.discard(adapter_id)
                attempts.count(None, unknown)
            except AdapterError as refused:
                attempts.count(worker, refused)
            else:
                worker.progress_at = time.monotonic()
                worker.breaker.succeeded()
                return answer

    async def _supply(self, worker: Worker, adapter_id: str | None) -> None:
        if adapter_id is not None:
            try:
                await worker.ensure(self._known(adapter_id))
            except UnknownAdapter as unknown:
                if adapter_id not in self._pool.declared:
                    raise
                raise _not_there(adapter_id, unknown) from unknown

    async def load(self, adapter: AdapterVersion) -> None:
        self._check()
        if adapter.id in self._pool.declared:
            return
        ranks = [w.info.max_lora_rank for w in self._pool.usable() if w.info and w.info.max_lora_rank]
        max_rank = min([self._max_lora_rank, *ranks])
        if adapter.rank > max_rank:
            raise RankTooLarge(
                f"{adapter.id} has rank {adapter.rank}; adapters.max_lora_rank, here and at the workers, "
                f"allows {max_rank}"
            )

        async def ensure(worker: Worker) -> None:
            try:
                await worker.ensure(adapter)
            except UnknownAdapter as unknown:
                raise _not_there(adapter.id, unknown) from unknown

        await self._at_home(adapter.id, ensure)
        self._pool.declared[adapter.id] = adapter

    async def unload(self, adapter_id: str) -> None:
        self._check()
        self._known(adapter_id)
        self._pool.forget(adapter_id)
        async with self._ended:
            await self._ended.wait_for(
                lambda: all(running.adapter_id != adapter_id for running in self._in_flight.values())
            )
        for worker in list(self._pool.workers.values()):
            if adapter_id in self._pool.declared:
                return  # loaded again meanwhile
            try:
                await worker.drop(adapter_id)
            except UnknownAdapter:
                pass  # it restarted: there is nothing to free
            except WorkerFailed as failure:
                worker.failed(failure)
                _log.warning("worker %s could not unload %s: %s", worker.url, adapter_id, failure.reason)

    async def pin(self, adapter_id: str) -> None:
        self._check()
        self._known(adapter_id)

        async def pin(worker: Worker) -> None:
            await self._supply(worker, adapter_id)
            await worker.dialect.pin(adapter_id)
            worker.pinned.add(adapter_id)

        await self._at_home(adapter_id, pin)
        self._known(adapter_id)
        self._pool.pinned.add(adapter_id)

    async def unpin(self, adapter_id: str) -> None:
        self._check()
        self._known(adapter_id)
        self._pool.pinned.discard(adapter_id)
        for worker in self._pool.usable():
            if adapter_id in worker.pinned:
                worker.pinned.discard(adapter_id)
                try:
                    await worker.dialect.unpin(adapter_id)
                except UnknownAdapter:
                    pass  # it restarted: nothing is pinned
                except WorkerFailed as failure:
                    worker.failed(failure)

    async def _at_home(self, adapter_id: str, act: Callable[[Worker], Awaitable[None]]) -> None:
        """Do something on the adapter's home; if that fails, on its next one."""
        attempts = Attempts(self._settings.max_attempts)
        while True:
            worker = await self._pool.home(adapter_id, attempts.failed)
            try:
                return await act(worker)
            except WorkerFailed as failure:
                worker.failed(failure)
                attempts.count(worker, failure)
            except UnknownAdapter as unknown:
                if adapter_id not in self._pool.declared:
                    raise
                worker.loaded.discard(adapter_id)
                attempts.count(None, unknown)

    async def residency(self) -> Mapping[str, Residency]:
        """The nearest place that any worker has an adapter in. Asks the workers; one that does not answer has
        it on disk.

        Raises Unsupported if there are stock workers only: they cannot tell.
        """
        self._check()
        workers = [worker for worker in self._pool.usable() if worker.kind == "plugin"]
        if not workers and self._pool.usable():
            raise Unsupported(
                "stock vLLM servers cannot tell where adapters are: start the workers with our plugin"
            )
        answers = await asyncio.gather(*(w.look() for w in workers), return_exceptions=True)
        for worker, answer in zip(workers, answers, strict=True):
            if isinstance(answer, WorkerFailed):
                worker.failed(answer)
        seen = [worker.stats.residency for worker in workers if worker.stats is not None]
        return {
            adapter_id: min((r.get(adapter_id, "disk") for r in seen), key=_NEARNESS.index, default="disk")
            for adapter_id in self._pool.declared
        }

    async def list(self) -> list[AdapterVersion]:
        self._check()
        return [self._pool.declared[i] for i in sorted(self._pool.declared)]

    async def abort(self, request_id: str) -> None:
        self._check()
        if request_id in self._in_flight:
            self._in_flight[request_id].abort()

    async def device_memory(self) -> Sequence[DeviceMemory]:
        """Of the workers that answer; a worker's own name is its URL."""
        self._check()
        workers = self._pool.usable()
        asked = (worker.dialect.device_memory() for worker in workers)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        found: list[DeviceMemory] = []
        reasons: list[str] = []
        for worker, answer in zip(workers, answers, strict=True):
            if isinstance(answer, Unsupported | EngineError):
                reasons.append(answer.message)
            elif isinstance(answer, WorkerFailed):
                reasons.append(answer.reason)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found += [replace(each, worker=f"{worker.url} {each.worker}") for each in answer]
        if not found:
            raise Unsupported("; ".join(sorted(set(reasons))) or "no worker can be asked now")
        return found

    async def stats(self) -> EngineStats:
        """Running are the requests of this gateway that have a token; the shares are those of the workers'
        last reports, on average."""
        self._check()
        reports = [worker.stats for worker in self._pool.usable() if worker.stats is not None]
        running = sum(request.started for request in self._in_flight.values())
        return EngineStats(
            running=running,
            waiting=len(self._in_flight) - running,
            kv_cache_usage=_mean([report.kv_cache_usage for report in reports]),
            gpu_memory_usage=_mean([report.gpu_memory_usage for report in reports]),
            loaded_adapters=len(self._pool.declared),
            workers={"usable": self.n_workers, "away": len(self._pool.workers) - self.n_workers},
        )

    def _check(self) -> None:
        if self._state != "ready":
            raise EngineNotReady("the engine is not running; retry when /ready answers 200")

    def _known(self, adapter_id: str) -> AdapterVersion:
        if adapter_id not in self._pool.declared:
            raise UnknownAdapter(f"no adapter {adapter_id!r} is loaded")
        return self._pool.declared[adapter_id]


_NEARNESS: Sequence[Residency] = ("slot", "host", "disk")


def _not_there(adapter_id: str, unknown: UnknownAdapter) -> AdapterError:
    return AdapterError(f"a worker cannot get the files of {adapter_id}: {unknown.message}")


def _n_tokens(prompt: Prompt, sampling: SamplingConfig) -> int:
    n_chars = len(prompt) if isinstance(prompt, str) else sum(len(m.content) for m in prompt)
    return n_chars // CHARS_PER_TOKEN + max(sampling.n, 1) * max(sampling.max_tokens, 1)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
