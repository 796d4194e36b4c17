"""From streams of chunks to finished completions; shared by every engine's `generate_batch`."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Protocol

from adaptive_lora.errors import EngineError, InvalidRequest
from adaptive_lora.types import (
    Completion,
    GenerateRequest,
    Prompt,
    SamplingConfig,
    TokenChunk,
    TokenLogprob,
    Usage,
)


async def collect(chunks: AsyncIterator[TokenChunk]) -> list[Completion]:
    """Read a request's stream to its end. Returns its choices by index.

    Raises EngineError if the stream ends before every choice that began has a finish reason.
    """
    texts: dict[int, list[str]] = {}
    logprobs: dict[int, list[TokenLogprob]] = {}
    n_tokens: dict[int, int] = {}
    finished: dict[int, Completion] = {}
    async for chunk in chunks:
        i = chunk.index
        texts.setdefault(i, []).append(chunk.text)
        n_tokens[i] = n_tokens.get(i, 0) + chunk.n_tokens
        if chunk.logprobs is not None:
            logprobs.setdefault(i, []).extend(chunk.logprobs)
        if chunk.finish_reason is not None:
            finished[i] = Completion(
                index=i,
                text="".join(texts[i]),
                finish_reason=chunk.finish_reason,
                usage=Usage(prompt_tokens=chunk.n_prompt_tokens, completion_tokens=n_tokens[i]),
                logprobs=tuple(logprobs[i]) if i in logprobs else None,
            )
    if not finished or finished.keys() != texts.keys():
        raise EngineError("the engine ended a stream without finishing it; see the server's log")
    return [finished[i] for i in sorted(finished)]


class Generates(Protocol):
    """The part of an engine that `complete_batch` drives."""

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]: ...


async def complete_batch(
    engine: Generates,
    prompts: Sequence[Prompt],
    config: SamplingConfig | None,
    adapter_ids: Sequence[str | None] | None,
) -> list[Completion]:
    """All prompts at once through `engine.generate`. The first failure aborts the others and is raised."""
    if adapter_ids is None:
        adapter_ids = [None] * len(prompts)
    if len(adapter_ids) != len(prompts):
        raise InvalidRequest(f"{len(prompts)} prompts need as many adapter ids, not {len(adapter_ids)}")
    sampling = replace(config or SamplingConfig(), n=1)

    async def one(prompt: Prompt, adapter_id: str | None) -> Completion:
        request = GenerateRequest(f"batch-{uuid.uuid4().hex}", prompt, sampling, adapter_id)
        return (await collect(engine.generate(request)))[0]

    tasks = [asyncio.create_task(one(p, a)) for p, a in zip(prompts, adapter_ids, strict=True)]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
