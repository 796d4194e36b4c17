"""The way to an answer: kept, in flight already, or from the engine.

Routes ask `Answers`, which has the shape of `Orchestrator.stream` and `complete`. It asks `AnswerCache`, if
there is one:

    bypass   may not be kept, or must be new   the orchestrator
    hit      kept                              its chunks, again
    shared   the same request runs already     its chunks, as they come
    miss     else                              the orchestrator; kept when it is complete
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal

from adaptive_lora.agents.orchestrator import Orchestrator, Turn
from adaptive_lora.agents.plan import Plan
from adaptive_lora.engine.collect import collect
from adaptive_lora.errors import AdaptiveLoraError, RateLimited
from adaptive_lora.serving.admission.priority import Priority
from adaptive_lora.serving.cache.codec import Codec, Undecodable
from adaptive_lora.serving.cache.flight import BURST_CHUNKS, Chunks, Flight
from adaptive_lora.serving.cache.key import KeyMaker, ModelIdentity
from adaptive_lora.serving.cache.store import Store
from adaptive_lora.telemetry.cache import CacheMetrics
from adaptive_lora.types import Completion, GenerateRequest, SamplingConfig, TokenChunk

CacheResult = Literal["hit", "shared", "miss", "bypass"]

LONG_CHUNKS: Final = 2_000
LONG_BYTES: Final = 32_768
"""From these lengths on an answer is packed and unpacked in a thread, so that the event loop stays free."""


NEARLY_S: Final = 1.0
"""A deadline that is so near to the longest is as good."""


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """What one request wants of the cache."""

    mode: Literal["use", "refresh", "off"] = "use"
    """Take an answer from it and leave one there; only leave one; neither."""
    accepts_samples: bool = False
    """An earlier sample will do, although the request asks for a random one."""


def is_repeatable(sampling: SamplingConfig) -> bool:
    """Whether the same request gets the same answer: it is greedy, or its randomness has a seed."""
    return sampling.temperature == 0 or sampling.seed is not None


class AnswerCache:
    """The kept answers of one gateway, and its generations in flight."""

    def __init__(
        self,
        store: Store,
        codec: Codec,
        keys: KeyMaker,
        *,
        model: Callable[[], ModelIdentity | None],
        metrics: CacheMetrics,
    ) -> None:
        """`model` says who answers now; while it is None, because it is not known, nothing is cached."""
        self._store = store
        self._codec = codec
        self._keys = keys
        self._model = model
        self._metrics = metrics
        self._flights: dict[tuple[Priority, bytes], Flight] = {}
        self._is_closed = False

    def stream(
        self,
        tenant: str,
        request: GenerateRequest,
        policy: CachePolicy,
        generate: Callable[[float], Chunks],
        *,
        priority: Priority,
        deadline: float,
        longest: float,
        tell: Callable[[CacheResult], None],
    ) -> Chunks:
        """The answer's chunks, until `deadline`. `generate` starts a generation that ends by itself at the
        time that it is given; `tell` hears where the chunks come from, before the first of them. Raises what
        the generation raises.

        A generation that may be shared goes on until `longest`, while anybody reads it: others may have more
        time than who has started it. It is shared within a `priority`, so that nobody waits for a less urgent
        one.
        """
        key = self._key(tenant, request, policy)
        if key is not None and policy.mode == "use":
            return self._shared((priority, key), generate, deadline, longest, tell)
        tell("bypass")
        self._metrics.requested("bypass")
        chunks = generate(deadline)
        return chunks if key is None else self._kept(key, chunks)

    async def close(self) -> None:
        """Stop every generation in flight, for good."""
        self._is_closed = True
        for flight in list(self._flights.values()):
            await flight.stop()

    def _key(self, tenant: str, request: GenerateRequest, policy: CachePolicy) -> bytes | None:
        """None: this request has nothing to do with the cache."""
        if policy.mode == "off" or not (is_repeatable(request.sampling) or policy.accepts_samples):
            return None
        model = self._model()
        return None if model is None else self._keys.answer(model, tenant, request)

    async def _shared(
        self,
        name: tuple[Priority, bytes],
        generate: Callable[[float], Chunks],
        deadline: float,
        longest: float,
        tell: Callable[[CacheResult], None],
    ) -> Chunks:
        """The kept answer; or the generation that runs for it, which this request starts if there is none."""
        result: CacheResult = "miss"
        n_tokens = 0
        retries = 1
        try:
            while True:
                kept = None if name in self._flights else await self._read(name[1])
                if kept is not None:
                    result, chunks = "hit", _replay(kept)
                elif name in self._flights:
                    result, chunks = "shared", self._flights[name].read(deadline=deadline)
                else:
                    flight = self._fly(name, generate(longest), longest)
                    result, chunks = "miss", flight.read(deadline=deadline)
                tell(result)
                try:
                    async with aclosing(chunks):
                        async for chunk in chunks:
                            n_tokens += chunk.n_tokens
                            yield chunk
                    return
                except AdaptiveLoraError as error:
                    if result == "miss" or n_tokens or self._is_closed:
                        raise
                    # What befell the request whose generation was shared need not befall this one, least
                    # of all another caller's limit.
                    if not isinstance(error, RateLimited):
                        if not retries:
                            raise
                        retries -= 1
        finally:
            self._metrics.requested(result, saved_tokens=0 if result == "miss" else n_tokens)

    def _fly(self, name: tuple[Priority, bytes], chunks: Chunks, deadline: float) -> Flight:
        def forget(ended: Flight) -> None:
            if self._flights.get(name) is ended:
                del self._flights[name]

        flight = self._flights[name] = Flight(
            chunks, deadline=deadline, keep=partial(self._write, name[1]), on_end=forget
        )
        return flight

    async def _kept(self, key: bytes, chunks: Chunks) -> Chunks:
        """The chunks as they come; they are kept if they come to their end."""
        answer: list[TokenChunk] = []
        async with aclosing(chunks):
            async for chunk in chunks:
                answer.append(chunk)
                yield chunk
        await self._write(key, answer)

    async def _read(self, key: bytes) -> tuple[TokenChunk, ...] | None:
        value = await self._store.get(key)
        if value is None:
            return None
        try:
            if len(value) < LONG_BYTES:
                return self._codec.decode_answer(key, value)
            return await asyncio.to_thread(self._codec.decode_answer, key, value)
        except Undecodable:
            self._metrics.unreadable()
            return None

    async def _write(self, key: bytes, answer: Sequence[TokenChunk]) -> None:
        if len(answer) < LONG_CHUNKS:
            value = self._codec.encode_answer(key, answer)
        else:
            value = await asyncio.to_thread(self._codec.encode_answer, key, answer)
        if value is None:
            self._metrics.written("too_large")
        elif await self._store.set(key, value):
            self._metrics.written("kept")
        else:
            self._metrics.written("unavailable")


async def _replay(answer: Sequence[TokenChunk]) -> Chunks:
    for i, chunk in enumerate(answer):
        if i % BURST_CHUNKS == 0:
            await asyncio.sleep(0)
        yield chunk


class Answers:
    """One caller's way to answers. Every request gets its tenant's salt; without a `cache` all go to the
    orchestrator."""

    def __init__(
        self,
        orchestrator: Orchestrator,
        cache: AnswerCache | None,
        *,
        tenant: str,
        salt: str,
        policy: CachePolicy,
        results: list[CacheResult],
        meter: Callable[[Chunks, GenerateRequest], Chunks] | None = None,
        priority: Priority = "interactive",
        turn: Callable[[GenerateRequest, float, float], Turn] | None = None,
    ) -> None:
        """`results` gets one entry for each request, in the order of the calls. `meter` is around each
        generation, and not around what is kept: that costs nobody a token. A generation waits for its `turn`,
        which is told its caller's deadline and when it must have ended, and whose tokens are reserved by
        then."""
        self._orchestrator = orchestrator
        self._cache = cache
        self._tenant = tenant
        self._salt = salt
        self._policy = policy
        self._results = results
        self._meter = meter
        self._priority = priority
        self._turn = turn

    def stream(
        self, plan: Plan, request: GenerateRequest, *, deadline: float
    ) -> AsyncGenerator[TokenChunk, None]:
        """As `Orchestrator.stream`."""
        salted = replace(request, cache_salt=self._salt)
        if self._cache is None:
            return self._generate(plan, salted, deadline, deadline)
        place = len(self._results)
        self._results.append("bypass")

        def tell(result: CacheResult) -> None:
            self._results[place] = result

        return self._cache.stream(
            self._tenant,
            salted,
            self._policy,
            lambda ends_at: self._generate(plan, salted, deadline, ends_at),
            priority=self._priority,
            deadline=deadline,
            longest=self._longest(deadline),
            tell=tell,
        )

    def _longest(self, deadline: float) -> float:
        """The most time that a caller could have. Who has nearly that much is taken to have it: then what
        runs out is the generation's time, and is counted as such."""
        longest = self._orchestrator.deadline()
        return longest if deadline < longest - NEARLY_S else deadline

    def _generate(self, plan: Plan, request: GenerateRequest, deadline: float, ends_at: float) -> Chunks:
        turn = None if self._turn is None else self._turn(request, deadline, ends_at)
        chunks = self._orchestrator.stream(plan, request, deadline=ends_at, turn=turn)
        return chunks if self._meter is None else self._meter(chunks, request)

    async def complete(self, plan: Plan, request: GenerateRequest, *, deadline: float) -> list[Completion]:
        """As `Orchestrator.complete`."""
        async with aclosing(self.stream(plan, request, deadline=deadline)) as chunks:
            return await collect(chunks)
