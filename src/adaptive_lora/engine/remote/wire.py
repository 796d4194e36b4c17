"""What gateway and worker say to each other below `/adaptive-lora/v1/`: JSON bodies, and chunks as SSE.

    GET    /worker                     WorkerInfo; does not change while the worker's process lives
    GET    /stats                      WorkerStats
    GET    /device-memory              DeviceMemory of each device; an error where there is none
    POST   /generate                   a GenerateRequest; answers with a stream of TokenChunks
    POST   /count-tokens               {"prompt"} -> {"n_tokens"}
    POST   /score                      {"prompt", "answer", "adapter_id"} -> {"logprobs"}
    PUT    /adapters/{id}              load; DELETE unloads and frees
    PUT    /adapters/{id}/pin          pin; DELETE unpins

A stream is a sequence of `data:` events: chunks, then exactly one of `[DONE]` and an error. One that ends
without either was cut. An error is `{"error": {"code", "message"}}`, in a stream as in a body.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import msgspec

from adaptive_lora.errors import (
    AdapterError,
    AdaptiveLoraError,
    Conflict,
    EngineError,
    InvalidRequest,
    NotFound,
    StorageError,
)
from adaptive_lora.types import GenerateRequest, Prompt, Residency, TokenChunk, TokenLogprob

PREFIX = "/adaptive-lora/v1"
END = b"[DONE]"
DONE = b"data: %b\n\n" % END
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker is. `boot_id` is another one after every start: what was loaded before is gone."""

    boot_id: str
    version: str
    """Of this package."""
    vllm_version: str
    model_name: str
    fingerprint: str | None
    """`adapters.base.base_fingerprint` of the worker's files; None if it has none on disk."""
    max_model_len: int
    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int
    text_fingerprint: str | None = None
    """`adapters.base_text.text_fingerprint` of the worker's files and its --chat-template; None if it cannot
    say."""


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """A snapshot of one worker. `None` where it cannot know."""

    boot_id: str
    running: int
    waiting: int
    kv_cache_usage: float | None
    gpu_memory_usage: float | None
    residency: Mapping[str, Residency]
    """Of the adapters that may be asked for, by id."""
    pinned: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CountTokens:
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class TokenCount:
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Score:
    prompt: Prompt
    answer: str
    adapter_id: str | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    logprobs: tuple[float, ...]


def encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


def decode(data: bytes, kind: type[T]) -> T:
    """Raises ValueError for what is not a `kind`. Unknown fields are ignored: a newer peer may send some."""
    return msgspec.json.decode(data, type=kind)


def decode_request(data: bytes) -> GenerateRequest:
    return decode(data, GenerateRequest)


def chunk_event(chunk: TokenChunk) -> bytes:
    """One chunk as an event. JSON has no infinity: a log-probability of minus infinity is null."""
    logprobs = chunk.logprobs and [[t.token, _out(t.logprob), _top_out(t.top)] for t in chunk.logprobs]
    content = [chunk.index, chunk.text, chunk.n_tokens, chunk.n_prompt_tokens, chunk.finish_reason, logprobs]
    return b"data: %b\n\n" % msgspec.json.encode(content)


def error_event(error: AdaptiveLoraError) -> bytes:
    return b"data: %b\n\n" % error_body(error)


def error_body(error: AdaptiveLoraError) -> bytes:
    return msgspec.json.encode({"error": {"code": error.code, "message": error.message}})


async def read_chunks(body: AsyncIterator[bytes]) -> AsyncGenerator[TokenChunk, None]:
    """The chunks of a stream, joined where they arrive together. Raises the error that ends it, and EOFError
    if it was cut."""
    is_new = True
    async for events in read_events(body):
        for chunk in join_chunks(map(read_chunk, before_done(events)), is_new=is_new):
            is_new = False
            yield chunk
        if END in events:
            return
    raise EOFError("the stream was cut")


def join_chunks(chunks: Iterator[TokenChunk], *, is_new: bool = False) -> Iterator[TokenChunk]:
    """As few chunks as say the same: neighbours of one choice become one, so that all who pass it on do it
    once. An error that ends `chunks` comes after what was before it.

    `is_new`: with the first an answer begins. It stays by itself: whoever then aborts can do so, however late
    it was read.
    """
    if is_new:
        yield from islice(chunks, 1)
    group: list[TokenChunk] = []
    try:
        for chunk in chunks:
            if group and not _go_together(group[-1], chunk):
                yield _joined(group)
                group = []
            group.append(chunk)
    except Exception:
        if group:
            yield _joined(group)
        raise
    if group:
        yield _joined(group)


def _go_together(first: TokenChunk, second: TokenChunk) -> bool:
    """What was generated before an abort is the caller's; the abort is not."""
    return first.index == second.index and first.finish_reason is None and second.finish_reason != "abort"


def _joined(group: Sequence[TokenChunk]) -> TokenChunk:
    first, last = group[0], group[-1]
    if first is last:
        return first
    logprobs = None
    if any(chunk.logprobs is not None for chunk in group):
        logprobs = tuple(entry for chunk in group for entry in chunk.logprobs or ())
    return TokenChunk(
        last.index,
        "".join([chunk.text for chunk in group]),
        sum([chunk.n_tokens for chunk in group]),
        last.n_prompt_tokens,
        logprobs,
        last.finish_reason,
    )


def read_chunk(data: bytes) -> TokenChunk:
    """Raises the error if it is one, EngineError for what is neither."""
    try:
        content = msgspec.json.decode(data)
        if isinstance(content, dict):
            raise read_error(data) or ValueError("neither a chunk nor an error")
        index, text, n_tokens, n_prompt_tokens, finish_reason, logprobs = content
        if logprobs is not None:
            logprobs = tuple(
                TokenLogprob(token, _in(logprob), tuple((t, _in(p)) for t, p in top))
                for token, logprob, top in logprobs
            )
        return TokenChunk(index, text, n_tokens, n_prompt_tokens, logprobs, finish_reason)
    except (ValueError, TypeError) as error:
        raise EngineError("the worker answers with what this version does not understand") from error


def read_error(data: bytes) -> AdaptiveLoraError | None:
    """The error of a body that our endpoints wrote, of its own class; None if it is none of them."""
    try:
        content = msgspec.json.decode(data)["error"]
        code, message = content["code"], content["message"]
    except (ValueError, TypeError, KeyError):
        return None
    kind = _KINDS.get(code) if isinstance(code, str) else None
    return kind(str(message)) if kind is not None else None


async def read_events(body: AsyncIterator[bytes]) -> AsyncGenerator[list[bytes], None]:
    """The `data:` lines of server-sent events that each piece of `body` completes, wherever it is cut."""
    rest = b""
    async for piece in body:
        *lines, rest = (rest + piece).split(b"\n")
        yield [line[5:].strip() for line in lines if line.startswith(b"data:")]


def before_done(events: list[bytes]) -> list[bytes]:
    """What comes after the end is no part of the stream."""
    return events[: events.index(END)] if END in events else events


def _top_out(top: tuple[tuple[str, float], ...]) -> list[list[Any]]:
    return [[token, _out(logprob)] for token, logprob in top]


def _out(logprob: float) -> float | None:
    return None if logprob == -math.inf else logprob


def _in(logprob: float | None) -> float:
    return -math.inf if logprob is None else float(logprob)


def _tree(kind: type[AdaptiveLoraError]) -> Iterator[type[AdaptiveLoraError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


OF_ENGINES = (InvalidRequest, NotFound, AdapterError, Conflict, StorageError, EngineError)
"""What a worker may say went wrong. Who the caller is and what he may do is none of its business."""

_KINDS = {kind.code: kind for root in OF_ENGINES for kind in _tree(root)}
