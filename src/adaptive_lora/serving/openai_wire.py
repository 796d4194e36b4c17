"""OpenAI's answers as bytes. What is the same in every chunk of a stream is written once per request."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from adaptive_lora.agents.plan import Plan
from adaptive_lora.serving.errors import fields_of
from adaptive_lora.serving.stream import sse
from adaptive_lora.types import Completion, TokenChunk, TokenLogprob, Usage

_encode = msgspec.json.encode
LOWEST_LOGPROB = -9999.0
"""JSON has no minus infinity; vLLM writes the same."""


def answered(plan: Plan, request_id: str) -> dict[str, Any]:
    """Our extension of OpenAI's bodies, under the key `adaptive_lora`."""
    return {
        "request_id": request_id,
        "agent": plan.agent,
        "version": plan.version,
        "confidence": plan.decision.confidence,
    }


def usage_fields(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def sum_usage(choices: Sequence[Completion]) -> Usage:
    """Of all choices of one prompt, which itself counts once."""
    return Usage(choices[0].usage.prompt_tokens, sum(choice.usage.completion_tokens for choice in choices))


def chat_body(plan: Plan, request_id: str, choices: Sequence[Completion]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": plan.agent,
        "choices": [
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": chat_logprobs(choice.logprobs),
                "finish_reason": choice.finish_reason,
            }
            for choice in choices
        ],
        "usage": usage_fields(sum_usage(choices)),
        "adaptive_lora": answered(plan, request_id),
    }


def completion_body(
    plans: Sequence[Plan], request_id: str, answers: Sequence[Sequence[Completion]]
) -> dict[str, Any]:
    """`answers` holds each prompt's choices; they are numbered through, prompt by prompt."""
    usages = [sum_usage(choices) for choices in answers]
    agents = {plan.agent for plan in plans}
    flat = [choice for choices in answers for choice in choices]
    who = [answered(plan, request_id) for plan in plans]
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": plans[0].agent if len(agents) == 1 else "auto",
        "choices": [
            {
                "index": index,
                "text": choice.text,
                "logprobs": completion_logprobs(choice.logprobs, offset=0),
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(flat)
        ],
        "usage": usage_fields(
            Usage(
                sum(usage.prompt_tokens for usage in usages),
                sum(usage.completion_tokens for usage in usages),
            )
        ),
        "adaptive_lora": who[0] if len(who) == 1 else {"request_id": request_id, "answers": who},
    }


def chat_logprobs(logprobs: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    if logprobs is None:
        return None
    content = [
        {
            **_chat_logprob(entry.token, entry.logprob),
            "top_logprobs": [_chat_logprob(token, logprob) for token, logprob in entry.top],
        }
        for entry in logprobs
    ]
    return {"content": content, "refusal": None}


def _chat_logprob(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": max(logprob, LOWEST_LOGPROB), "bytes": list(token.encode())}


def completion_logprobs(logprobs: Sequence[TokenLogprob] | None, *, offset: int) -> dict[str, Any] | None:
    """`offset` is where this piece's text begins in the choice's text, in characters."""
    if logprobs is None:
        return None
    offsets = []
    for entry in logprobs:
        offsets.append(offset)
        offset += len(entry.token)
    return {
        "tokens": [entry.token for entry in logprobs],
        "token_logprobs": [max(entry.logprob, LOWEST_LOGPROB) for entry in logprobs],
        "top_logprobs": [
            {token: max(logprob, LOWEST_LOGPROB) for token, logprob in entry.top} for entry in logprobs
        ],
        "text_offset": offsets,
    }


class _Stream:
    """The bytes of one stream. Each chunk is a head, one choice, and a tail; `usage` is null until the
    end."""

    object: str
    prefix: str

    def __init__(self, plan: Plan, request_id: str, *, include_usage: bool) -> None:
        self._request_id = request_id
        self._include_usage = include_usage
        head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "object": self.object,
            "created": int(time.time()),
            "model": plan.agent,
            "adaptive_lora": answered(plan, request_id),
        }
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._n_prompt_tokens = 0
        self._n_tokens = 0

    def _count(self, chunk: TokenChunk) -> None:
        self._n_prompt_tokens = chunk.n_prompt_tokens
        self._n_tokens += chunk.n_tokens

    def begin(self) -> bytes:
        return b""

    def end(self) -> bytes:
        usage = b""
        if self._include_usage:
            fields = usage_fields(Usage(self._n_prompt_tokens, self._n_tokens))
            usage = self._head + b'],"usage":' + _encode(fields) + b"}\n\n"
        return usage + b"data: [DONE]\n\n"

    def error(self, error: BaseException) -> bytes:
        """In place of [DONE]: OpenAI's clients raise APIError on it."""
        return sse("error", fields_of(error, self._request_id))


class ChatStream(_Stream):
    object = "chat.completion.chunk"
    prefix = "chatcmpl"

    def __init__(self, plan: Plan, request_id: str, *, n: int, include_usage: bool) -> None:
        super().__init__(plan, request_id, include_usage=include_usage)
        self._n = n

    def begin(self) -> bytes:
        """Each choice's role, before its first text."""
        role = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return b"".join(
            self._head + _encode({"index": index, **role}) + self._tail for index in range(self._n)
        )

    def chunk(self, chunk: TokenChunk) -> bytes:
        self._count(chunk)
        out = b""
        if chunk.text or chunk.logprobs is not None:
            logprobs = b"null" if chunk.logprobs is None else _encode(chat_logprobs(chunk.logprobs))
            out = b'%b{"index":%d,"delta":{"content":%b},"logprobs":%b,"finish_reason":null}%b' % (
                self._head,
                chunk.index,
                _encode(chunk.text),
                logprobs,
                self._tail,
            )
        if chunk.finish_reason is not None:
            out += b'%b{"index":%d,"delta":{},"logprobs":null,"finish_reason":"%b"}%b' % (
                self._head,
                chunk.index,
                chunk.finish_reason.encode(),
                self._tail,
            )
        return out


class CompletionStream(_Stream):
    object = "text_completion"
    prefix = "cmpl"

    def __init__(self, plan: Plan, request_id: str, *, include_usage: bool) -> None:
        super().__init__(plan, request_id, include_usage=include_usage)
        self._offsets: dict[int, int] = {}

    def chunk(self, chunk: TokenChunk) -> bytes:
        self._count(chunk)
        logprobs = b"null"
        if chunk.logprobs is not None:
            offset = self._offsets.get(chunk.index, 0)
            self._offsets[chunk.index] = offset + len(chunk.text)
            logprobs = _encode(completion_logprobs(chunk.logprobs, offset=offset))
        return b'%b{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b}%b' % (
            self._head,
            chunk.index,
            _encode(chunk.text),
            logprobs,
            _encode(chunk.finish_reason),
            self._tail,
        )
