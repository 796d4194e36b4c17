"""Slow and hostile clients, on raw sockets: what they may cost, and when the server parts with them. The
clock is the test's: nobody waits for a time limit."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.serving import api, intake, middleware
from adaptive_lora.serving.connection import HEAD_TIMEOUT_S, READ_TIMEOUT_S, BoundedConnection, look_at
from tests.serving.conftest import ready, until
from tests.serving.gateway_process import GatewayProcess

Build = Callable[..., FastAPI]
ENDLESS = {"prompt": "x", "max_tokens": 4_000, "ignore_eos": True}
SMALL_BUFFER = 4_096


def request(path: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return head(path, len(content)) + content


def head(path: str, n_bytes: int) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {n_bytes}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


LIVE = b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of an answer with a length."""
        lines = (await self._reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        length = next(line for line in lines if line.lower().startswith(b"content-length:"))
        return int(lines[0].split()[1]), await self._reader.readexactly(int(length.split(b":")[1]))

    async def is_closed(self) -> bool:
        """Waits for it. An answer that is still to be read is a failure."""
        try:
            return await self._reader.read(1) == b""
        except ConnectionResetError:
            return True

    def leave(self) -> None:
        self._writer.transport.abort()


class Served:
    """A server in this event loop, whose buffers in the kernel are small."""

    def __init__(self, app: FastAPI, max_connections: int) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        self._listener.bind(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        protocol: Any = partial(BoundedConnection, max_connections=max_connections)
        self.server = uvicorn.Server(uvicorn.Config(app, http=protocol, log_config=None, access_log=False))
        self._clients: list[Client] = []

    @property
    def connections(self) -> list[BoundedConnection]:
        return [c for c in self.server.server_state.connections if isinstance(c, BoundedConnection)]

    def later(self, seconds: float) -> None:
        """As if so much time had passed."""
        look_at(self.server.server_state.connections, asyncio.get_running_loop().time() + seconds)

    async def connect(self) -> Client:
        """A connection that the server has seen, and keeps."""
        n_before = len(self.connections)
        client = await self.connect_beyond()
        await until(lambda: len(self.connections) > n_before)
        return client

    async def connect_beyond(self) -> Client:
        own = socket.socket()
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        own.setblocking(False)
        await asyncio.get_running_loop().sock_connect(own, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=own, limit=SMALL_BUFFER)
        self._clients.append(Client(reader, writer))
        return self._clients[-1]

    async def run(self) -> None:
        await self.server.serve([self._listener])

    async def stop(self) -> None:
        for client in self._clients:
            client.leave()
        self.server.should_exit = True


@pytest.fixture
def served(build: Build) -> Callable[..., Any]:
    @asynccontextmanager
    async def _served(*, max_connections: int = 100, **sections: Any) -> AsyncIterator[Served]:
        served = Served(build(**sections), max_connections)
        task = asyncio.create_task(served.run())
        try:
            await until(lambda: served.server.started or task.done())
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as client:
                await ready(client)
            await until(lambda: not served.connections)
            yield served
        finally:
            await served.stop()
            await task

    return _served


async def test_a_head_that_does_not_come_to_its_end_is_refused(served: Callable[..., Any]) -> None:
    async with served() as server:
        slow, silent = await server.connect(), await server.connect()
        await slow.send(LIVE[:-2])
        await until(lambda: any(connection._n_head_bytes for connection in server.connections))
        server.later(0.5 * HEAD_TIMEOUT_S)
        assert len(server.connections) == 2
        server.later(1.5 * HEAD_TIMEOUT_S)
        status, body = await slow.answer()
        assert (status, json.loads(body)["error"]["code"]) == (408, "request_timeout")
        assert await slow.is_closed()
        assert await silent.is_closed()


async def test_a_later_head_has_its_own_time(served: Callable[..., Any]) -> None:
    async with served() as server:
        client = await server.connect()
        for _ in range(2):
            await client.send(LIVE)
            assert (await client.answer())[0] == 200
            server.later(1.5 * HEAD_TIMEOUT_S)  # a kept connection may idle for longer
        await client.send(LIVE[:-2])
        await until(lambda: server.connections[0]._is_in_head)
        server.later(1.5 * HEAD_TIMEOUT_S)
        assert (await client.answer())[0] == 408


async def test_a_request_in_flight_is_no_slow_head(served: Callable[..., Any], engine: FakeEngine) -> None:
    async with served() as server:
        engine._delay_s = 0.01
        client = await server.connect()
        await client.send(request("/generate", {**ENDLESS, "max_tokens": 20}))
        await until(lambda: engine._running == 1)
        server.later(1_000)
        assert (await client.answer())[0] == 200


async def test_the_rest_of_a_refused_body_is_not_read_for_ever(served: Callable[..., Any]) -> None:
    async with served() as server:
        client = await server.connect()
        await client.send(head("/generate", 10_000_000))
        assert (await client.answer())[0] == 413
        for _ in range(10):
            await client.send(b"x" * 1_000)
        server.later(1.5 * HEAD_TIMEOUT_S)
        assert await client.is_closed()


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
async def test_who_does_not_read_a_stream_loses_it_and_its_slot(
    served: Callable[..., Any], engine: FakeEngine, path: str
) -> None:
    async with served() as server:
        client = await server.connect()
        await client.send(request(path, {**ENDLESS, "stream": True}))
        await until(lambda: any(connection._unread_since for connection in server.connections))
        assert engine._running == 1  # who reads slowly is waited for
        server.later(0.5 * READ_TIMEOUT_S)
        assert len(server.connections) == 1
        server.later(1.5 * READ_TIMEOUT_S)
        await until(lambda: not engine._running and not server.connections)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as other:
            metrics = (await other.get("/metrics")).text
    assert f'api_requests_total{{code="499",route="{path}",status="aborted"}} 1.0' in metrics


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_who_leaves_with_requests_behind_each_other_frees_the_slot(
    served: Callable[..., Any], engine: FakeEngine, is_streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with served() as server:
        engine._delay_s = 0.05
        client = await server.connect()
        await client.send(request("/generate", {**ENDLESS, "stream": is_streamed}) * 3)
        await until(lambda: engine._running == 1)
        client.leave()
        await until(lambda: not engine._running and not server.connections)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_who_reads_slowly_gets_all_of_it(served: Callable[..., Any]) -> None:
    async with served() as server:
        client = await server.connect()
        await client.send(request("/generate", {**ENDLESS, "stream": True}))
        received = b""
        while b"event: done" not in received:
            received += await client._reader.read(SMALL_BUFFER)
            server.later(0.5 * READ_TIMEOUT_S)
    assert received.count(b"event: token") == 4_000


async def test_who_leaves_the_last_answer_unread_keeps_no_connection(served: Callable[..., Any]) -> None:
    """uvicorn has closed it, as far as it goes: it waits until the client has read everything."""
    async with served() as server:
        client = await server.connect()
        await client.send(request("/generate", ENDLESS).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        await until(lambda: any(connection.transport.is_closing() for connection in server.connections))
        server.later(0)
        assert server.connections
        server.later(1.5 * READ_TIMEOUT_S)
        await until(lambda: not server.connections)


async def test_a_new_connection_takes_the_place_of_the_one_that_has_idled_longest(
    served: Callable[..., Any], engine: FakeEngine
) -> None:
    async with served(max_connections=3) as server:
        engine._delay_s = 0.02
        busy = await server.connect()
        await busy.send(request("/generate", {**ENDLESS, "stream": True}))
        await until(lambda: engine._running == 1)
        first, second = await server.connect(), await server.connect()
        third = await server.connect_beyond()
        assert await first.is_closed()
        for client in (second, third):
            await client.send(LIVE)
            assert (await client.answer())[0] == 200
        assert engine._running == 1


async def test_if_all_are_busy_a_new_connection_is_refused(
    served: Callable[..., Any], engine: FakeEngine
) -> None:
    async with served(max_connections=2) as server:
        engine._delay_s = 0.02
        for _ in range(2):
            await (await server.connect()).send(request("/generate", {**ENDLESS, "stream": True}))
        await until(lambda: engine._running == 2)
        refused = await server.connect_beyond()
        status, body = await refused.answer()
        assert (status, json.loads(body)["error"]["code"]) == (503, "overloaded")
        assert await refused.is_closed()
        assert engine._running == 2


async def test_bodies_that_arrive_slowly_are_bounded_together(
    served: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "MAX_ARRIVING_BYTES", 1)
    async with served(api={"max_body_bytes": 1_000}) as server:
        body = request("/generate", {"prompt": "x" * 800, "max_tokens": 1})
        for _ in range(2):  # what was held is given back
            one, other = await server.connect(), await server.connect()
            await one.send(body[:-100])
            await until(lambda: any(c.cycle and not c.cycle.body for c in server.connections))
            await other.send(body[:-100])
            status, text = await other.answer()
            assert (status, json.loads(text)["error"]["code"]) == (503, "overloaded")
            await one.send(body[-100:])
            assert (await one.answer())[0] == 200


async def test_a_body_that_does_not_come_to_its_end_is_refused(
    served: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "BODY_READ_TIMEOUT_S", 0.1)
    async with served() as server:
        client = await server.connect()
        await client.send(head("/generate", 1_000) + b"{")
        status, text = await client.answer()
        assert (status, json.loads(text)["error"]["code"]) == (408, "request_timeout")


@pytest.mark.parametrize("every_s", [0.02, 3_600])
async def test_an_upload_that_is_too_slow_or_stalls_is_refused(
    every_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "BODY_READ_TIMEOUT_S", 0.2)

    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(every_s)

    with pytest.raises(HTTPException) as refused:
        await intake.receive(chunks(), tmp_path / "archive", max_bytes=1 << 30)
    assert refused.value.status_code == 408


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4_096


async def test_thousands_of_slow_connections_cost_little_and_keep_nobody_out() -> None:
    """2,000, each with a head of 30 kB that does not end: of 1,000 that may be open, and be slow."""
    gateway = GatewayProcess(api={"max_connections": 1_000})
    try:
        gateway.wait_until_ready()
        before = resident_bytes(gateway.process.pid)
        writers = []
        for _ in range(2_000):
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 30_000)
            writers.append(writer)
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
            for _ in range(20):
                answer = await client.post("/generate", json={"prompt": "x", "max_tokens": 4})
                assert answer.status_code == 200
        assert resident_bytes(gateway.process.pid) - before < 150 << 20
        for writer in writers:
            writer.transport.abort()
    finally:
        gateway.close()
