"""Generated calls as OpenAI writes them: in whole messages, and in streams."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from adaptive_lora.agents.plan import Plan
from adaptive_lora.serving.openai_wire import ChatStream, chat_body, chat_logprobs
from adaptive_lora.serving.tool_calls import ToolCalling
from adaptive_lora.types import Completion, FinishReason, TokenChunk

_encode = msgspec.json.encode
_HEAD: Final = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"]+)"\s*,\s*"parameters"\s*:\s*(?=\S)')


class CallReader:
    """Takes the text of one call as it comes, and gives its function's name and the text of its arguments."""

    def __init__(self, only: str | None) -> None:
        """`only`: the function's name where the text is its arguments alone (`ToolCalling.only`)."""
        self.name = only
        """None until it has been read."""
        self.id = f"call_{uuid.uuid4().hex[:24]}"
        self._alone = only is not None
        self._unread = ""
        self._depth = 0
        self._in_string = self._escaped = self._ended = False

    def feed(self, text: str) -> str:
        """What of the arguments came with `text`."""
        if self._alone:
            return text
        if self.name is None:
            self._unread += text
            head = _HEAD.match(self._unread)
            if head is None:
                return ""
            self.name = head[1]
            text = self._unread[head.end() :]
        return "".join(self._arguments(text))

    def _arguments(self, text: str) -> Iterator[str]:
        """The characters before the brace that closes the call."""
        for char in text:
            if self._ended:
                return
            if self._in_string:
                self._in_string = self._escaped or char != '"'
                self._escaped = char == "\\" and not self._escaped
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                self._ended = self._depth < 0
            if not self._ended:
                yield char


def call_body(
    plan: Plan, request_id: str, choices: Sequence[Completion], calling: ToolCalling
) -> dict[str, Any]:
    """OpenAI's `chat.completion`, each choice of which is a call."""
    body = chat_body(plan, request_id, choices)
    for written, choice in zip(body["choices"], choices, strict=True):
        written["message"] = _message(choice.text, calling)
        written["finish_reason"] = _finish(choice.finish_reason, calling)
    return body


def _message(text: str, calling: ToolCalling) -> dict[str, Any]:
    """The assistant's message for a generated text. Without a call, if it was cut off before the function's
    name."""
    reader = CallReader(calling.only)
    arguments = reader.feed(text)
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    if reader.name is not None:
        function = {"name": reader.name, "arguments": arguments}
        message["tool_calls"] = [{"id": reader.id, "type": "function", "function": function}]
    return message


def _finish(reason: FinishReason, calling: ToolCalling) -> str:
    """OpenAI's finish reason: of a function that the caller named it is `stop`."""
    return "tool_calls" if reason == "stop" and not calling.named else reason


class CallStream(ChatStream):
    """The chunks of calls: each choice's function, then its arguments piece by piece."""

    def __init__(
        self, plan: Plan, request_id: str, *, n: int, include_usage: bool, calling: ToolCalling
    ) -> None:
        super().__init__(plan, request_id, n=n, include_usage=include_usage)
        self._calling = calling
        self._readers = [CallReader(calling.only) for _ in range(n)]
        self._begun = [False] * n

    def begin(self) -> bytes:
        return b"".join(
            self._delta(index, {"role": "assistant", "content": None}) for index in range(self._n)
        )

    def chunk(self, chunk: TokenChunk) -> bytes:
        self._count(chunk)
        reader = self._readers[chunk.index]
        arguments = reader.feed(chunk.text)
        logprobs = chat_logprobs(chunk.logprobs)
        out = b""
        if reader.name is not None and not self._begun[chunk.index]:
            self._begun[chunk.index] = True
            function = {"name": reader.name, "arguments": arguments}
            call = {"index": 0, "id": reader.id, "type": "function", "function": function}
            out = self._delta(chunk.index, {"tool_calls": [call]}, logprobs)
        elif arguments:
            call = {"index": 0, "function": {"arguments": arguments}}
            out = self._delta(chunk.index, {"tool_calls": [call]}, logprobs)
        elif logprobs is not None:
            out = self._delta(chunk.index, {}, logprobs)
        if chunk.finish_reason is not None:
            out += self._delta(chunk.index, {}, finish=_finish(chunk.finish_reason, self._calling))
        return out

    def _delta(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        finish: str | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._head + _encode(choice) + self._tail
