"""Clients that speak HTTP badly, slowly or not at all, on raw sockets. Each waits until the server parts with
it, or leaves by itself, and returns how that was."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

SMALL_BUFFER = 2_048
SLOW_S = 20.0
HOLD_S = 40.0
"""How long a reader who reads nothing stays: longer than the server's patience."""


class RawClients:
    """Those of one server. `token` is believed; not every client shows it."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._token = token

    async def slow_reader(self, rng: random.Random) -> str:
        """Reads a stream a few bytes at a time, in a small window, and leaves after some seconds: the kernel
        may send such a client the next bytes a minute later."""
        async with self._connection() as (reader, writer):
            writer.write(self._head("/generate", self._stream(rng)))
            if not await reader.read(64):
                return "closed"
            with suppress(TimeoutError):
                async with asyncio.timeout(rng.uniform(1, SLOW_S)):
                    while await reader.read(64):  # noqa: ASYNC110
                        await asyncio.sleep(rng.uniform(0, 0.3))
            return "read"

    async def no_reader(self, rng: random.Random) -> str:
        """Asks for one stream after another, and reads none of them."""
        async with self._connection() as (_, writer):
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(rng.randint(1, 4)):
                writer.write(self._head("/generate", self._stream(rng)))
            await asyncio.sleep(rng.uniform(1, HOLD_S))
            return "left"

    async def slow_head(self, rng: random.Random) -> str:
        """Sends its headers a few bytes at a time, and never the last of them."""
        head = self._head("/generate", b"").partition(b"\r\n\r\n")[0]
        async with self._connection() as (reader, writer):
            answer = asyncio.ensure_future(reader.read())
            for i in range(0, len(head), 16):
                writer.write(head[i : i + 16])
                done, _ = await asyncio.wait([answer], timeout=rng.uniform(0, 2))
                if done:
                    break
            return _status(await answer)

    async def slow_body(self, rng: random.Random) -> str:
        """Promises a body, and sends the beginning of it."""
        async with self._connection() as (reader, writer):
            writer.write(self._head("/generate", b'{"prompt": "', n_bytes=rng.randint(100, 900_000)))
            return _status(await reader.readuntil(b"\r\n"))

    async def malformed(self, rng: random.Random) -> str:
        """Something that is no request, or no good one; the server may close or keep the connection."""
        async with self._connection() as (reader, writer):
            writer.write(self._malformed(rng))
            writer.write_eof()
            return _status(await reader.read(SMALL_BUFFER))

    def _malformed(self, rng: random.Random) -> bytes:
        bodies = (
            b"{",
            b"\xff\xfe\x00",
            b"[" * 20_000,
            b'{"prompt": "x", "max_tokens": -1}',
            b'{"prompt": "x", "adapter": "../../etc"}',
            b'{"prompt": "x", "who": "me"}',
            b'{"prompt": "\\ud800"}',
            json.dumps({"prompt": "x" * 40_000}).encode(),
            b'{"prompt": "x"}' + b" " * 1_100_000,
        )
        whole = self._head("/generate", rng.choice(bodies))
        match rng.randrange(5):
            case 0:
                return rng.randbytes(rng.randint(1, 2_000))
            case 1:
                return whole.replace(b"Bearer ", b"Bearer x", 1)
            case 2:
                return whole.replace(b"Host: 127.0.0.1", b"Host: a/?", 1)
            case 3:
                return whole.replace(b"\r\n", b"\r\nX-Long: " + b"x" * 50_000 + b"\r\n", 1)
            case _:
                return whole

    def _stream(self, rng: random.Random) -> bytes:
        body = {"prompt": f"x {rng.random()}", "stream": True, "max_tokens": 200, "ignore_eos": True}
        return json.dumps(body).encode()

    def _head(self, path: str, body: bytes, *, n_bytes: int | None = None) -> bytes:
        length = len(body) if n_bytes is None else n_bytes
        return (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self._token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        ).encode() + body

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        own = socket.socket()
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        own.setblocking(False)
        await asyncio.get_running_loop().sock_connect(own, ("127.0.0.1", self._port))
        reader, writer = await asyncio.open_connection(sock=own, limit=SMALL_BUFFER)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


def _status(answer: bytes) -> str:
    words = answer.split(b" ", 2)
    return f"status {words[1].decode('latin-1')}" if len(words) > 1 else "closed"
