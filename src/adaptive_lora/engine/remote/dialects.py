"""Talking to a worker that carries our plugin, and the choice between that and a stock one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol, TypeVar

from adaptive_lora.engine.remote import wire
from adaptive_lora.engine.remote.transport import Transport, WorkerFailed
from adaptive_lora.errors import AdaptiveLoraError, EngineError
from adaptive_lora.telemetry import tracing
from adaptive_lora.types import AdapterVersion, DeviceMemory, GenerateRequest, Prompt, TokenChunk

T = TypeVar("T")

ASK_TIMEOUT_S = 10.0
"""For what a healthy worker answers at once."""
LOAD_TIMEOUT_S = 300.0
"""For loading (a download may come first), and for what waits until running requests end."""
SCORE_TIMEOUT_S = 120.0


class Dialect(Protocol):
    """One worker's side of `engine/base.py`. Raises its errors, and WorkerFailed for the worker's own."""

    async def info(self) -> wire.WorkerInfo: ...

    async def stats(self) -> wire.WorkerStats | None:
        """None if the worker cannot tell."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenChunk, None]: ...

    async def device_memory(self) -> tuple[DeviceMemory, ...]:
        """As `Engine.device_memory`."""
        ...

    async def count_tokens(self, prompt: Prompt) -> int: ...

    async def answer_logprobs(
        self, prompt: Prompt, answer: str, adapter_id: str | None
    ) -> tuple[float, ...]: ...

    async def load(self, adapter: AdapterVersion) -> None:
        """Raises UnknownAdapter if the worker cannot find its files."""
        ...

    async def unload(self, adapter_id: str) -> None: ...

    async def pin(self, adapter_id: str) -> None: ...

    async def unpin(self, adapter_id: str) -> None: ...


class PluginDialect:
    """With our plugin: the same code runs there as in process, so that everything is possible and exact."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def info(self) -> wire.WorkerInfo:
        return await self._ask("GET", "/worker", wire.WorkerInfo)

    async def stats(self) -> wire.WorkerStats:
        return await self._ask("GET", "/stats", wire.WorkerStats)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenChunk, None]:
        headers = tracing.outgoing(request.request_id)
        path = f"{wire.PREFIX}/generate"
        async with self._transport.stream(path, wire.encode(request), headers) as answer:
            if answer.status != 200:
                raise failure(answer.status, await answer.body())
            n_unfinished = request.sampling.n
            try:
                async for chunk in wire.read_chunks(answer.pieces()):
                    n_unfinished -= chunk.finish_reason is not None
                    answer.is_complete = not n_unfinished
                    yield chunk
            except EOFError:
                raise WorkerFailed("its answer was cut") from None
            except EngineError as error:
                raise WorkerFailed(error.message, error) from error

    async def device_memory(self) -> tuple[DeviceMemory, ...]:
        return await self._ask("GET", "/device-memory", tuple[DeviceMemory, ...])

    async def count_tokens(self, prompt: Prompt) -> int:
        answer = await self._ask("POST", "/count-tokens", wire.TokenCount, wire.CountTokens(prompt))
        return answer.n_tokens

    async def answer_logprobs(self, prompt: Prompt, answer: str, adapter_id: str | None) -> tuple[float, ...]:
        body = wire.Score(prompt, answer, adapter_id)
        return (await self._ask("POST", "/score", wire.Scored, body, SCORE_TIMEOUT_S)).logprobs

    async def load(self, adapter: AdapterVersion) -> None:
        await self._tell("PUT", f"/adapters/{adapter.id}")

    async def unload(self, adapter_id: str) -> None:
        await self._tell("DELETE", f"/adapters/{adapter_id}")

    async def pin(self, adapter_id: str) -> None:
        await self._tell("PUT", f"/adapters/{adapter_id}/pin")

    async def unpin(self, adapter_id: str) -> None:
        await self._tell("DELETE", f"/adapters/{adapter_id}/pin")

    async def _ask(
        self, method: str, path: str, kind: type[T], body: object = None, timeout_s: float | None = None
    ) -> T:
        content = None if body is None else wire.encode(body)
        status, data = await self._transport.call(
            method, wire.PREFIX + path, content, timeout_s=timeout_s or ASK_TIMEOUT_S
        )
        if status != 200:
            raise failure(status, data)
        try:
            return wire.decode(data, kind)
        except ValueError:
            raise WorkerFailed("it answers with what this version does not understand") from None

    async def _tell(self, method: str, path: str) -> None:
        status, data = await self._transport.call(method, wire.PREFIX + path, timeout_s=LOAD_TIMEOUT_S)
        if status != 204:
            raise failure(status, data)


def failure(status: int, body: bytes) -> Exception:
    """What our endpoints answer instead of 200: an error of the request's own, or the worker's failure."""
    error = wire.read_error(body)
    if error is None or isinstance(error, EngineError):
        return worker_failure(status, error)
    return error


def worker_failure(status: int, error: AdaptiveLoraError | None = None) -> WorkerFailed:
    """An answer that says something of the worker, not of the request."""
    match status:
        case 401 | 403:
            reason = "it refuses the API key (workers.api_key)"
        case 404 | 405:
            reason = "it has no such endpoint: is it a vLLM server?"
        case 300 | 301 | 302 | 303 | 307 | 308:
            reason = "it redirects, which is not followed"
        case _:
            reason = error.message if error else f"it answers {status}"
    overloaded = error is not None and error.code == "overloaded"
    return WorkerFailed(reason, error, blameless=overloaded)
