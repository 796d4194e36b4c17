"""A cache in front of generations that the test plays, token by token."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry

from adaptive_lora.serving.admission.priority import Priority
from adaptive_lora.serving.cache.answers import AnswerCache, CachePolicy
from adaptive_lora.serving.cache.codec import Codec
from adaptive_lora.serving.cache.flight import Chunks
from adaptive_lora.serving.cache.key import KeyMaker, ModelIdentity
from adaptive_lora.serving.cache.store import MemoryStore, Store
from adaptive_lora.telemetry.cache import CacheMetrics
from adaptive_lora.types import GenerateRequest, SamplingConfig, TokenChunk, TokenLogprob

MODEL = ModelIdentity("base", "weights", "text")
NEVER = math.inf
ANSWER = (
    TokenChunk(0, "One", 1, 7, (TokenLogprob("One", -0.5, (("One", -0.5), ("Two", -math.inf))),)),
    TokenChunk(0, " fish", 2, 7, (TokenLogprob(" fi", -0.1), TokenLogprob("sh", 0.0))),
    TokenChunk(0, "", 0, 7, None, "stop"),
)


@dataclass(slots=True)
class Generation:
    """One generation: what the test puts into it comes out, until `end` or `fail`."""

    said: asyncio.Queue[TokenChunk | Exception | None] = field(default_factory=asyncio.Queue)
    is_closed: bool = False

    def say(self, *chunks: TokenChunk) -> None:
        for chunk in chunks:
            self.said.put_nowait(chunk)

    def end(self) -> None:
        self.said.put_nowait(None)

    def fail(self, error: Exception) -> None:
        self.said.put_nowait(error)

    async def chunks(self) -> Chunks:
        try:
            while (item := await self.said.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.is_closed = True


@dataclass(slots=True)
class Engine:
    """The generations that were started."""

    generations: list[Generation] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)

    def generate(self, ends_at: float = NEVER) -> Chunks:
        self.deadlines.append(ends_at)
        self.generations.append(Generation())
        return self.generations[-1].chunks()

    def answer(self, ends_at: float = NEVER) -> Chunks:
        """A generation that is over at once."""
        chunks = self.generate()
        self.generations[-1].say(*ANSWER)
        self.generations[-1].end()
        return chunks


@dataclass(slots=True)
class Gateway:
    """One gateway's cache."""

    cache: AnswerCache
    engine: Engine
    registry: CollectorRegistry

    def ask(
        self,
        request: GenerateRequest | None = None,
        policy: CachePolicy | None = None,
        *,
        tenant: str = "acme",
        deadline: float = NEVER,
        generate: Callable[[float], Chunks] | None = None,
        priority: Priority = "interactive",
        longest: float | None = None,
    ) -> Reader:
        wanted = request or request_of()
        return Reader(self, wanted, policy or CachePolicy(), tenant, deadline, longest, generate, priority)

    async def answer(self, *args: object, **keys: object) -> tuple[str, tuple[TokenChunk, ...]]:
        """Ask, where a generation is over at once. Returns the result and the chunks."""
        reader = self.ask(*args, **keys, generate=self.engine.answer)  # type: ignore[arg-type]
        await reader.task
        return reader.result, tuple(reader.chunks)

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


class Reader:
    """A caller that reads in a task of its own."""

    def __init__(
        self,
        gateway: Gateway,
        request: GenerateRequest,
        policy: CachePolicy,
        tenant: str,
        deadline: float,
        longest: float | None,
        generate: Callable[[float], Chunks] | None,
        priority: Priority,
    ) -> None:
        self.chunks: list[TokenChunk] = []
        self.results: list[str] = []
        stream = gateway.cache.stream(
            tenant,
            request,
            policy,
            generate or gateway.engine.generate,
            priority=priority,
            deadline=deadline,
            longest=deadline if longest is None else longest,
            tell=self.results.append,
        )
        self.task = asyncio.create_task(self._read(stream))

    @property
    def result(self) -> str:
        """What its header says: what was told last."""
        return self.results[-1]

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    async def _read(self, stream: Chunks) -> None:
        async with aclosing(stream):
            async for chunk in stream:
                self.chunks.append(chunk)


def request_of(
    prompt: str = "hello", *, adapter_id: str | None = None, **sampling: object
) -> GenerateRequest:
    return GenerateRequest("r1", prompt, SamplingConfig(**sampling), adapter_id)  # type: ignore[arg-type]


async def settle() -> None:
    """Let everything happen that can happen without the test."""
    for _ in range(20):
        await asyncio.sleep(0)


def make_gateway(store: Store | None = None, *, secret: bytes | None = None, **keys: object) -> Gateway:
    registry = CollectorRegistry()
    metrics = CacheMetrics(registry)
    cache = AnswerCache(
        store or MemoryStore(1 << 20, 60.0, on_evict=metrics.evicted),
        Codec(1 << 16, secret),
        KeyMaker(secret),
        model=keys.get("model", lambda: MODEL),  # type: ignore[arg-type]
        metrics=metrics,
    )
    return Gateway(cache, Engine(), registry)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = make_gateway()
    yield gateway
    await gateway.cache.close()
