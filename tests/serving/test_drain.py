"""SIGTERM, on a real server process under load: who was admitted is answered, whatever that takes; who cannot
be is told so."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator

import httpx
import pytest
from fastapi import FastAPI

from adaptive_lora.engine.fake import FakeEngine
from tests.serving.batches import conftest as batches
from tests.serving.conftest import until
from tests.serving.gateway_process import GatewayProcess

N_STREAMS = 50
ENDLESS = {"prompt": "x", "max_tokens": 4_000, "ignore_eos": True, "stream": True}
Start = Callable[..., GatewayProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[GatewayProcess] = []

    def _start(**options: object) -> GatewayProcess:
        started.append(GatewayProcess(**options))
        started[-1].wait_until_ready()
        return started[-1]

    yield _start
    for gateway in started:
        gateway.close()


class Stream:
    """A streamed answer that is being read, in the background."""

    def __init__(self, client: httpx.AsyncClient, body: dict[str, object], path: str = "/generate") -> None:
        self.text = ""
        self.task = asyncio.create_task(self._read(client, path, body))

    async def _read(self, client: httpx.AsyncClient, path: str, body: dict[str, object]) -> None:
        async with client.stream("POST", path, json=body) as response:
            assert response.status_code == 200, await response.aread()
            async for text in response.aiter_text():
                self.text += text

    @property
    def has_begun(self) -> bool:
        return bool(self.text)

    @property
    def last_event(self) -> str:
        return self.text.strip().rpartition("\n\n")[2]


def client_of(gateway: GatewayProcess) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=gateway.url, timeout=60, limits=limits)


async def ended(gateway: GatewayProcess) -> int:
    return await asyncio.to_thread(gateway.process.wait, 60)


async def closed(client: httpx.AsyncClient) -> httpx.Response:
    """The first answer that refuses a new request."""
    async with asyncio.timeout(60):
        while (answer := await client.post("/generate", json={"prompt": "x"})).status_code == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return answer


async def test_sigterm_breaks_no_stream_and_serves_on_until_balancers_have_seen_it(start: Start) -> None:
    gateway = start(
        token_s=0.05, inference={"max_batch_size": 64}, api={"drain_seconds": 3, "grace_seconds": 60}
    )
    async with client_of(gateway) as client:
        body = {"prompt": "x", "max_tokens": 120, "ignore_eos": True, "stream": True}
        streams = [Stream(client, body) for _ in range(N_STREAMS)]
        await until(lambda: all(stream.has_begun for stream in streams))
        gateway.signal(signal.SIGTERM)
        while (ready := await client.get("/ready")).status_code == 200:
            pass
        assert "draining" in ready.text
        assert (await client.get("/live")).status_code == 200
        served = await client.post("/generate", json={"prompt": "during the wait", "max_tokens": 2})
        assert served.status_code == 200
        assert served.headers["connection"] == "close"
        refused = await closed(client)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert refused.headers["retry-after"]
        assert refused.headers["connection"] == "close"
        assert (await client.get("/live")).status_code == 200
        await asyncio.gather(*(stream.task for stream in streams))
    assert {stream.last_event.partition("\n")[0] for stream in streams} == {"event: done"}
    assert {stream.text.count("event: token") for stream in streams} == {120}
    assert await ended(gateway) == 0
    assert gateway.messages(level="WARNING") == []


async def test_kept_connections_are_closed_before_a_request_on_them_would_be_refused(start: Start) -> None:
    gateway = start(token_s=0.05, api={"drain_seconds": 1, "grace_seconds": 60})
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f"GET /live HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\n\r\n".encode())
    head = await reader.readuntil(b'{"status":"alive"}')
    assert b"connection: close" not in head
    async with client_of(gateway) as client:
        stream = Stream(client, ENDLESS | {"max_tokens": 120})
        await until(lambda: stream.has_begun)
        gateway.signal(signal.SIGTERM)
        assert await reader.read() == b""
        assert not stream.task.done()
        await stream.task
    writer.close()
    assert stream.last_event.startswith("event: done\n")
    assert await ended(gateway) == 0


async def test_what_cannot_finish_in_the_grace_period_ends_with_an_error(start: Start) -> None:
    gateway = start(token_s=0.05, api={"grace_seconds": 2})
    whole = {key: value for key, value in ENDLESS.items() if key != "stream"}
    chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4_000, "stream": True}
    async with client_of(gateway) as client:
        ours = Stream(client, ENDLESS)
        openai = Stream(client, {**chat, "ignore_eos": True}, "/v1/chat/completions")
        answers = [
            asyncio.create_task(client.post("/generate", json=whole)),
            asyncio.create_task(client.post("/generate/batch", json={"requests": [whole, whole]})),
        ]
        await until(lambda: ours.has_begun and openai.has_begun)
        gateway.signal(signal.SIGTERM)
        await asyncio.gather(ours.task, openai.task)
        for answer in await asyncio.gather(*answers):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
            assert answer.headers["retry-after"]
    assert ours.last_event.startswith("event: error\n")
    assert '"code":"shutting_down"' in ours.last_event
    assert '"code":"shutting_down"' in openai.last_event
    assert "[DONE]" not in openai.text
    assert await ended(gateway) == 0
    assert gateway.messages(level="WARNING") == ["4 requests could not finish"]
    assert gateway.messages(level="ERROR") == []


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_does_not_wait(start: Start, second: signal.Signals) -> None:
    """It would take an hour."""
    gateway = start(token_s=0.05, api={"drain_seconds": 3_000, "grace_seconds": 3_600})
    async with client_of(gateway) as client:
        stream = Stream(client, ENDLESS)
        await until(lambda: stream.has_begun)
        gateway.signal(signal.SIGTERM)
        while (await client.get("/ready")).status_code == 200:
            pass
        gateway.signal(second)
        await stream.task
    assert '"code":"shutting_down"' in stream.last_event
    assert await ended(gateway) == 0


async def test_ctrl_c_does_not_wait_for_balancers(start: Start) -> None:
    gateway = start(api={"drain_seconds": 3_000, "grace_seconds": 3_600})
    gateway.signal(signal.SIGINT)
    assert await ended(gateway) == 0


async def test_batches_are_left_to_other_gateways_while_callers_are_still_served(
    build: Callable[..., FastAPI],
) -> None:
    app = build(engine=FakeEngine(delay_s=0.02))
    runtime, runner = app.state.runtime, app.state.runner
    async with batches.running(app) as client:
        batch = await batches.start(client, batches.chats(500))
        await batches.until_done(client, batch.id, 3)
        runtime.leave()
        draining = asyncio.create_task(runtime.drain.run(wait_s=3_600, finish_s=3_600))
        await until(lambda: not runner._runs)
        await client.chat.completions.create(
            model="code", messages=[{"role": "user", "content": "still here"}]
        )
        runner.look()
        n_done = (await client.batches.retrieve(batch.id)).request_counts
        await asyncio.sleep(0.2)
        left = await client.batches.retrieve(batch.id)
        assert (left.status, left.request_counts) == ("in_progress", n_done)
        assert not runner._runs
        runtime.drain.hurry()
        await draining


async def test_a_client_that_does_not_read_keeps_no_process(start: Start) -> None:
    gateway = start(api={"grace_seconds": 2})
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1)
    reader._transport.pause_reading()
    request = f"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\n\r\n"
    writer.write(request.encode() * 500)
    async with client_of(gateway) as client:
        assert (await client.get("/live")).status_code == 200
    gateway.signal(signal.SIGTERM)
    assert await ended(gateway) == 0
    writer.transport.abort()
