"""What stands in for vLLM behind every gateway: fixed answers, from one process that costs next to nothing.

    python benchmarks/gateway/upstream.py PORT

Speaks OpenAI's chat completions, and as a worker of ours the wire of `engine/remote/wire.py`. An answer has
`max_tokens` tokens, one a chunk. `PUT /pace` with seconds as its body says how long a token takes from then
on: with 0 an answer is sent at once, in one piece.
"""

from __future__ import annotations

import asyncio
import sys
from functools import lru_cache
from typing import Any

import httptools
import msgspec
import uvloop

from adaptive_lora.engine.remote import wire
from adaptive_lora.types import TokenChunk

WORD = " lorem"
N_PROMPT_TOKENS = 20
INFO = wire.WorkerInfo("boot", "0", "0", "bench", None, 4096, 8, 16, 512)
STATS = wire.WorkerStats("boot", 0, 0, 0.0, None, {})

_encode = msgspec.json.encode


@lru_cache
def whole(n_tokens: int) -> bytes:
    return _encode(
        {
            "id": "chatcmpl-0",
            "object": "chat.completion",
            "created": 1_767_225_600,
            "model": "bench",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": WORD * n_tokens},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": N_PROMPT_TOKENS,
                "completion_tokens": n_tokens,
                "total_tokens": N_PROMPT_TOKENS + n_tokens,
            },
        }
    )


@lru_cache
def openai_events(n_tokens: int) -> tuple[bytes, ...]:
    def event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        chunk = {
            "id": "chatcmpl-0",
            "object": "chat.completion.chunk",
            "created": 1_767_225_600,
            "model": "bench",
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
        }
        return b"data: " + _encode(chunk) + b"\n\n"

    first = event({"role": "assistant", "content": ""})
    words = [event({"content": WORD}, "stop" if i == n_tokens - 1 else None) for i in range(n_tokens)]
    return (first + words[0], *words[1:-1], words[-1] + b"data: [DONE]\n\n")


@lru_cache
def worker_events(n_tokens: int) -> tuple[bytes, ...]:
    chunks = [
        TokenChunk(0, WORD, 1, N_PROMPT_TOKENS, None, "stop" if i == n_tokens - 1 else None)
        for i in range(n_tokens)
    ]
    *events, last = map(wire.chunk_event, chunks)
    return (*events, last + wire.DONE)


class Upstream(asyncio.Protocol):
    """One connection."""

    pace_s = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)
        self._url = self._body = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        self._answer(self._url.decode(), body)

    def _answer(self, path: str, body: bytes) -> None:
        match path.removeprefix(wire.PREFIX):
            case "/v1/chat/completions":
                asked = msgspec.json.decode(body)
                if asked.get("stream"):
                    self._stream(openai_events(asked["max_tokens"]))
                else:
                    self._send(whole(asked["max_tokens"]))
            case "/generate":
                self._stream(worker_events(wire.decode_request(body).sampling.max_tokens))
            case "/worker":
                self._send(wire.encode(INFO))
            case "/stats":
                self._send(wire.encode(STATS))
            case "/pace":
                Upstream.pace_s = float(body)
                self._send(b"{}")
            case "/health":
                self._send(b"{}")
            case _:  # adapters come, are pinned, and go
                self._transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    def _send(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self._transport.write(head + body)

    def _stream(self, events: tuple[bytes, ...]) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        if not self.pace_s:
            body = b"".join(events)
            self._transport.write(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
            return
        self._transport.write(head)
        self._continue(events, 0, asyncio.get_running_loop().time())

    def _continue(self, events: tuple[bytes, ...], i: int, at: float) -> None:
        last = i == len(events) - 1
        self._transport.write(b"%x\r\n%b\r\n%b" % (len(events[i]), events[i], b"0\r\n\r\n" if last else b""))
        if not last:
            at += self.pace_s
            self._timer = asyncio.get_running_loop().call_at(at, self._continue, events, i + 1, at)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
