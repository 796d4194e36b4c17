"""FakeEngine: the whole contract without a model. Deterministic; needs neither torch nor vllm."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType

from adaptive_lora.engine import collect, fake_text
from adaptive_lora.engine.in_flight import InFlight
from adaptive_lora.engine.salts import check_salt
from adaptive_lora.errors import (
    EngineDead,
    EngineNotReady,
    InvalidRequest,
    PromptTooLong,
    RankTooLarge,
    UnknownAdapter,
    Unsupported,
)
from adaptive_lora.types import (
    AdapterVersion,
    Completion,
    DeviceMemory,
    EngineStats,
    FinishReason,
    GenerateRequest,
    Prompt,
    Residency,
    SamplingConfig,
    TokenChunk,
    TokenLogprob,
)


class FakeEngine:
    """Answers with words that depend on prompt, adapter, choice and (if sampled) seed alone.

    Like vLLM it runs no more than `max_loras` adapters at once, and evicts the least recently used one.
    `delay_s` is the time per token, `start_delay_s` that of `start`; `die()` plays the death of the process.
    """

    def __init__(
        self,
        model_name: str = "fake",
        *,
        max_model_len: int = 4096,
        max_num_seqs: int = 32,
        max_loras: int = 8,
        max_lora_rank: int = 64,
        delay_s: float = 0.0,
        start_delay_s: float = 0.0,
    ) -> None:
        self.model_name = model_name
        self.max_model_len = max_model_len
        self._max_lora_rank = max_lora_rank
        self._delay_s = delay_s
        self._start_delay_s = start_delay_s
        self._max_loras = max_loras
        self._places = asyncio.Semaphore(max_num_seqs)
        self._state = "new"
        self._adapters: dict[str, AdapterVersion] = {}
        self._slots: dict[str, None] = {}  # adapter ids, least recently used first
        self._in_flight = InFlight(max_loras, queues_itself=False)
        self._running = 0

    @property
    def adapters(self) -> Mapping[str, AdapterVersion]:
        return MappingProxyType(self._adapters)

    async def start(self) -> None:
        await asyncio.sleep(self._start_delay_s)
        self._state = "ready"

    async def stop(self) -> None:
        self._state = "stopped"
        await self._in_flight.abort_all()
        self._adapters.clear()

    def die(self) -> None:
        """From now on the engine behaves as if its process had died."""
        self._state = "dead"

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        return self._generate(request)

    async def _generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        self._check()
        if request.adapter_id is not None:
            self._known(request.adapter_id)
        check_salt(request.cache_salt)
        sampling = request.sampling
        _validate(sampling)
        if request.request_id in self._in_flight:
            raise InvalidRequest("a request with this id is running; ids must be unique")
        prompt = fake_text.render(request.prompt)
        n_prompt_tokens = len(fake_text.tokenize(prompt))
        room = self.max_model_len - n_prompt_tokens
        if room < 1:
            raise PromptTooLong(
                f"the prompt is too long: {n_prompt_tokens} tokens; the model's context is "
                f"{self.max_model_len}, and at least one must be left for the answer"
            )
        choices = [self._choice(request, prompt, i, room, n_prompt_tokens) for i in range(sampling.n)]
        request_id = request.request_id
        self._in_flight.add(request_id, request.adapter_id)
        try:
            await self._in_flight.enter(request_id)
            self._use(request.adapter_id)
            async with self._places:
                self._running += 1
                try:
                    async for chunk in self._interleave(request_id, choices, n_prompt_tokens):
                        yield chunk
                finally:
                    self._running -= 1
        finally:
            await self._in_flight.remove(request_id)

    async def _interleave(
        self, request_id: str, choices: list[list[TokenChunk]], n_prompt_tokens: int
    ) -> AsyncIterator[TokenChunk]:
        unfinished = set(range(len(choices)))
        for step in itertools.zip_longest(*choices):
            await asyncio.sleep(self._delay_s)
            if self._state == "dead":
                raise EngineDead("the engine's process is gone")
            if self._in_flight.is_aborted(request_id):
                for i in sorted(unfinished):
                    yield TokenChunk(i, "", 0, n_prompt_tokens, finish_reason="abort")
                return
            for chunk in step:
                if chunk is not None:
                    if chunk.finish_reason is not None:
                        unfinished.discard(chunk.index)
                    yield chunk

    def _choice(
        self, request: GenerateRequest, prompt: str, index: int, room: int, n_prompt_tokens: int
    ) -> list[TokenChunk]:
        sampling = request.sampling
        sampled = sampling.temperature > 0
        key = (prompt, request.adapter_id or "", (sampling.seed, index) if sampled else "")
        limit = min(sampling.max_tokens, room)
        reason: FinishReason = "length"
        if sampling.json_schema is not None:
            everything = fake_text.tokenize(fake_text.minimal_json(sampling.json_schema))
            tokens = everything[:limit]
            if len(everything) <= limit:
                reason = "stop"
        else:
            natural = max(8 + fake_text.digest("length", *key)[0] % 17, sampling.min_tokens)
            if not sampling.ignore_eos and natural <= limit:
                limit, reason = natural, "stop"
            tokens = list(itertools.islice(fake_text.words(*key), limit))
        cut = _first_stop("".join(tokens), sampling.stop)
        if cut is not None:
            tokens, reason = _cut(tokens, cut), "stop"
        return [
            TokenChunk(
                index=index,
                text=token,
                n_tokens=1,
                n_prompt_tokens=n_prompt_tokens,
                logprobs=_logprobs(token, (*key, i), sampling.logprobs),
                finish_reason=reason if i == len(tokens) - 1 else None,
            )
            for i, token in enumerate(tokens)
        ]

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
        """The base finds every token of every answer less likely than any adapter does."""
        self._check()
        if adapter_id is not None:
            self._known(adapter_id)
        tokens = fake_text.tokenize(answer)
        if not tokens:
            raise InvalidRequest("the answer is empty")
        text = fake_text.render(prompt)
        if len(fake_text.tokenize(text)) + len(tokens) > self.max_model_len:
            raise PromptTooLong(
                f"prompt and answer are longer than the model's context, {self.max_model_len}"
            )
        handicap = 2.0 if adapter_id is None else 0.0
        return tuple(
            fake_text.logprob(text, adapter_id or "", i, token) - handicap for i, token in enumerate(tokens)
        )

    async def load(self, adapter: AdapterVersion) -> None:
        self._check()
        if adapter.rank > self._max_lora_rank:
            raise RankTooLarge(
                f"{adapter.id} has rank {adapter.rank}; the engine takes at most {self._max_lora_rank}"
            )
        self._adapters[adapter.id] = adapter
        self._use(adapter.id)

    async def unload(self, adapter_id: str) -> None:
        self._check()
        self._known(adapter_id)
        del self._adapters[adapter_id]
        await self._in_flight.drained(adapter_id)
        if adapter_id not in self._adapters:
            await self._in_flight.unpin(adapter_id)
            self._slots.pop(adapter_id, None)

    async def pin(self, adapter_id: str) -> None:
        self._check()
        self._known(adapter_id)
        await self._in_flight.pin(adapter_id)
        self._use(adapter_id)

    async def unpin(self, adapter_id: str) -> None:
        self._check()
        self._known(adapter_id)
        await self._in_flight.unpin(adapter_id)

    async def residency(self) -> Mapping[str, Residency]:
        self._check()
        return {adapter_id: "slot" if adapter_id in self._slots else "host" for adapter_id in self._adapters}

    def _use(self, adapter_id: str | None) -> None:
        """Take a slot, from the least recently used adapter if there is none; none if all of them run."""
        if adapter_id is None:
            return
        if adapter_id in self._slots:
            del self._slots[adapter_id]  # to the end
        elif len(self._slots) >= self._max_loras:
            busy = self._in_flight.running | self._in_flight.pinned
            oldest = next((a for a in self._slots if a not in busy), None)
            if oldest is None:
                return
            del self._slots[oldest]
        self._slots[adapter_id] = None

    async def list(self) -> list[AdapterVersion]:
        self._check()
        return [self._adapters[i] for i in sorted(self._adapters)]

    async def abort(self, request_id: str) -> None:
        self._check()
        await self._in_flight.abort(request_id)

    async def stats(self) -> EngineStats:
        self._check()
        return EngineStats(
            running=self._running,
            waiting=len(self._in_flight) - self._running,
            kv_cache_usage=None,
            gpu_memory_usage=None,
            loaded_adapters=len(self._adapters),
        )

    async def device_memory(self) -> Sequence[DeviceMemory]:
        self._check()
        raise Unsupported("the fake engine computes on no device")

    async def count_tokens(self, prompt: Prompt) -> int:
        self._check()
        return len(fake_text.tokenize(fake_text.render(prompt)))

    def _check(self) -> None:
        if self._state == "dead":
            raise EngineDead("the engine's process is gone; restart the server")
        if self._state != "ready":
            raise EngineNotReady("the engine is not running; retry when /ready answers 200")

    def _known(self, adapter_id: str) -> None:
        if adapter_id not in self._adapters:
            raise UnknownAdapter(f"no adapter {adapter_id!r} is loaded")


def _validate(sampling: SamplingConfig) -> None:
    """The ranges that vLLM accepts."""
    for name, ok in (
        ("n", sampling.n >= 1),
        ("max_tokens", sampling.max_tokens >= 1),
        ("min_tokens", 0 <= sampling.min_tokens <= sampling.max_tokens),
        ("temperature", sampling.temperature >= 0),
        ("top_p", 0 < sampling.top_p <= 1),
        ("top_k", sampling.top_k >= -1),
        ("min_p", 0 <= sampling.min_p <= 1),
        ("logprobs", sampling.logprobs is None or sampling.logprobs >= 0),
        ("presence_penalty", -2 <= sampling.presence_penalty <= 2),
        ("frequency_penalty", -2 <= sampling.frequency_penalty <= 2),
        ("repetition_penalty", sampling.repetition_penalty > 0),
    ):
        if not ok:
            raise InvalidRequest(f"{name} is out of range")


def _first_stop(text: str, stops: Sequence[str]) -> int | None:
    found = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return min(found, default=None)


def _cut(tokens: list[str], length: int) -> list[str]:
    """The tokens whose text begins before `length` characters, the last one shortened; at least one token."""
    kept: list[str] = []
    for token in tokens:
        kept.append(token[: max(length, 0)])
        length -= len(token)
        if length <= 0:
            break
    return kept


def _logprobs(token: str, key: tuple[object, ...], n: int | None) -> tuple[TokenLogprob, ...] | None:
    if n is None:
        return None
    own = fake_text.logprob(*key)
    others = itertools.islice(fake_text.words("alternatives", *key), max(n - 1, 0))
    top = ((token, own), *((word, own - 1 - i) for i, word in enumerate(others)))[:n]
    return (TokenLogprob(token, own, top),)
