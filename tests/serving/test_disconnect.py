"""A client that goes away frees its slot in the engine. On raw sockets."""

import asyncio
import json

import httpx
import pytest

from adaptive_lora.engine.fake import FakeEngine
from tests.serving.conftest import Listen, until


def request_bytes(path: str, body: dict[str, object]) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"prompt": "x"}),
        ("/generate", {"prompt": "x", "stream": True}),
        ("/generate/batch", {"prompts": ["x", "y"]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "stream": True}),
        ("/v1/completions", {"prompt": ["x", "y"]}),
        ("/v1/completions", {"prompt": "x", "stream": True}),
    ],
)
async def test_leaving_aborts(listen: Listen, engine: FakeEngine, path: str, body: dict[str, object]) -> None:
    async with listen() as port:
        engine._delay_s = 0.05
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes(path, {**body, "max_tokens": 4000, "ignore_eos": True}))
        await until(lambda: engine._running > 0)
        if body.get("stream"):
            await reader.readuntil(b"data: ")
        writer.transport.abort()
        await until(lambda: engine._running == 0)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            metrics = (await client.get("/metrics")).text
    assert f'api_requests_total{{code="499",route="{path}",status="aborted"}} 1.0' in metrics
    assert 'outcome="aborted"' in metrics


async def test_leaving_before_the_body_is_complete_is_no_error(listen: Listen, engine: FakeEngine) -> None:
    async with listen() as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes("/generate", {"prompt": "x"})[:-3])
        await writer.drain()
        writer.transport.abort()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            for _ in range(5_000):
                if 'status="aborted"' in (await client.get("/metrics")).text:
                    break
                await asyncio.sleep(0.01)
            else:
                raise AssertionError("the aborted request was not counted")


async def test_a_client_that_stays_is_not_disturbed(listen: Listen) -> None:
    async with listen() as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        for _ in range(3):  # one connection, kept alive
            assert (await client.post("/generate", json={"prompt": "x"})).status_code == 200
            streamed = await client.post("/generate", json={"prompt": "x", "stream": True})
            assert "event: done" in streamed.text
        metrics = (await client.get("/metrics")).text
    assert 'api_requests_total{code="200",route="/generate",status="success"} 6.0' in metrics
    assert "aborted" not in metrics.replace("done, error, aborted", "").replace("stream), aborted", "")


@pytest.mark.parametrize("host", ["a/?", "", "evil.example", "127.0.0.1/../x", "a b", "[::1", "a,b"])
async def test_hostile_host_headers_are_refused(listen: Listen, host: str) -> None:
    async with listen() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /adapters HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        status = int((await reader.readline()).split()[1])
        writer.close()
        await writer.wait_closed()
    assert status in (400, 421)


async def test_a_chunked_body_beyond_the_limit_is_cut_off(listen: Listen) -> None:
    async def chunks() -> "object":
        for _ in range(100):
            yield b"x" * 1_000

    async with (
        listen(api={"max_body_bytes": 10_000}) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        response = await client.post("/generate", content=chunks())
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
