"""One request while it runs on the pool: how far it is, how it is stopped, and where it has failed so far."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from adaptive_lora.engine.remote.transport import WorkerFailed
from adaptive_lora.engine.remote.worker import Worker
from adaptive_lora.errors import AdapterError, EngineError, EngineNotReady, Overloaded, UnknownAdapter
from adaptive_lora.types import GenerateRequest, TokenChunk


class Aborted(Exception):
    """Somebody called `abort`."""


@dataclass(slots=True)
class InFlight:
    """One request while it runs: how far it is, and how to stop it."""

    request: GenerateRequest
    started: bool = False
    n_prompt_tokens: int = 0
    unfinished: set[int] = field(default_factory=set)
    _is_aborted: bool = False
    _timer: asyncio.Timeout | None = None

    def __post_init__(self) -> None:
        self.unfinished = set(range(max(self.request.sampling.n, 1)))  # workers refuse less than one

    @property
    def adapter_id(self) -> str | None:
        return self.request.adapter_id

    def add(self, chunk: TokenChunk) -> None:
        self.started = True
        self.n_prompt_tokens = chunk.n_prompt_tokens
        if chunk.finish_reason is not None:
            self.unfinished.discard(chunk.index)

    def abort(self) -> None:
        self._is_aborted = True
        if self._timer is not None:
            self._timer.reschedule(asyncio.get_running_loop().time())

    def aborted_chunks(self) -> list[TokenChunk]:
        return [
            TokenChunk(index, "", 0, self.n_prompt_tokens, finish_reason="abort")
            for index in sorted(self.unfinished)
        ]

    def interruptible(self, limit_s: float | None) -> Interruptible:
        return Interruptible(self, limit_s)


class Interruptible:
    """A wait that ends in WorkerFailed after `limit_s`, and in Aborted when its request is aborted."""

    def __init__(self, running: InFlight, limit_s: float | None) -> None:
        self._running = running
        self._limit_s = limit_s
        self._timer = asyncio.timeout(limit_s)

    async def __aenter__(self) -> None:
        if self._running._is_aborted:
            raise Aborted
        await self._timer.__aenter__()
        self._running._timer = self._timer

    async def __aexit__(self, *error: object) -> None:
        self._running._timer = None
        try:
            await self._timer.__aexit__(*error)  # type: ignore[arg-type]
        except TimeoutError:
            if self._running._is_aborted:
                raise Aborted from None
            raise WorkerFailed(f"it gave nothing for {self._limit_s:g} s") from None


class Attempts:
    """How often one request was tried, and where it failed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._n = 0
        self.failed: set[Worker] = set()

    def count(self, worker: Worker | None, error: WorkerFailed | UnknownAdapter | AdapterError) -> None:
        """Raises what the caller should read if that was the last attempt. `worker`: do not ask it again."""
        self._n += 1
        if worker is not None:
            self.failed.add(worker)
        if self._n < self._limit:
            return
        if isinstance(error, UnknownAdapter):
            raise EngineError("a worker keeps losing the adapter; see the log") from error
        if not isinstance(error, WorkerFailed):
            raise error
        if error.blameless:
            raise Overloaded("all workers are busy; retry in a moment") from error
        raise EngineNotReady(
            f"{self._n} workers failed, the last one so: {error.reason}; retry in a moment"
        ) from error
