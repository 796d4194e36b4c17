"""A closed loop of clients on kept-alive connections, lean enough to share a core with the upstream."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httptools


@dataclass(frozen=True, slots=True)
class Timing:
    """One answer, in ms from the request's first byte: its first token (of a stream), and its end."""

    first: float
    end: float


def request_bytes(url: str, key: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\n"
        f"authorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


class Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._answer: asyncio.Future[None] | None = None

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the gateway closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self._body:
            self._first = time.perf_counter()
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._answer is not None:
            self._answer.set_result(None)

    async def ask(self, request: bytes, expected: bytes) -> Timing:
        """Raises SystemExit for anything but a 200 whose body holds `expected`."""
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._answer = asyncio.get_running_loop().create_future()
        started = time.perf_counter()
        self._transport.write(request)
        await self._answer
        ended = time.perf_counter()
        body = b"".join(self._body)
        if self._parser.get_status_code() != 200 or expected not in body:
            raise SystemExit(f"not the answer: {self._parser.get_status_code()} {body[:500]!r}")
        return Timing((self._first - started) * 1000, (ended - started) * 1000)

    def close(self) -> None:
        self._transport.close()


async def closed_loop(
    url: str, requests: Sequence[bytes], *, concurrency: int, expected: bytes
) -> list[Timing]:
    """Each of `concurrency` clients sends its next request when it has the answer to the last."""
    loop = asyncio.get_running_loop()
    address = urlsplit(url)
    clients = [
        (await loop.create_connection(Client, address.hostname, address.port))[1] for _ in range(concurrency)
    ]
    todo = iter(requests)
    timings: list[Timing] = []

    async def work(client: Client, todo: Iterator[bytes]) -> None:
        for request in todo:
            timings.append(await client.ask(request, expected))

    try:
        await asyncio.gather(*(work(client, todo) for client in clients))
    finally:
        for client in clients:
            client.close()
    return timings
