"""One request, of servers that answer in every way that there is."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from adaptive_lora.loadtest.client import Client, Outcome
from adaptive_lora.loadtest.workload import Ask

ASK = Ask("code", "Write a function", 16)
START = b'event: start\ndata: {"adapter":"code"}\n\n'
TOKEN = b'event: token\ndata: {"text":"\\n"}\n\n'
DONE = b'event: done\ndata: {"adapter":"code","usage":{"completion_tokens":4}}\n\n'
OVERLOADED = b'{"error":{"code":"overloaded","message":"the queue is full"}}'
LIMITED = b'{"error":{"code":"rate_limit_exceeded"}}'
FAILED = b"event: error\ndata: " + OVERLOADED + b"\n\n"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def whole(status: int, body: bytes) -> Answer:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body)

    return answer


def stream(*pieces: bytes, cut: bool = False) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        for piece in pieces:
            await reply.write(piece)
            await asyncio.sleep(0.001)
        if cut:
            assert request.transport is not None
            request.transport.abort()
        return reply

    return answer


@pytest.fixture
async def ask() -> AsyncIterator[Callable[..., Awaitable[Outcome]]]:
    """Ask a server that answers so; `due_s` is when the request was due, from now."""
    servers = []

    async def _ask(answer: Answer, *, due_s: float = 0.0, timeout_s: float = 30.0) -> Outcome:
        app = web.Application()
        app.router.add_post("/behind/generate", answer)
        server = TestServer(app)
        servers.append(server)
        await server.start_server()
        async with aiohttp.ClientSession(server.make_url("/behind/")) as session:
            started = asyncio.get_running_loop().time() + due_s
            return await Client(session, timeout_s=timeout_s).ask(ASK, 0.0, started)

    yield _ask
    for server in servers:
        await server.close()


Asking = Callable[..., Awaitable[Outcome]]


async def test_an_answer(ask: Asking) -> None:
    outcome = await ask(stream(START, TOKEN, TOKEN, TOKEN, TOKEN, DONE))
    assert (outcome.error, outcome.n_tokens, outcome.answered_by) == (None, 4, "code")
    assert outcome.ttft_s is not None
    assert outcome.itl_s is not None
    assert 0 <= outcome.ttft_s <= outcome.ttft_s + 3 * outcome.itl_s <= outcome.end_s


async def test_events_that_come_in_pieces(ask: Asking) -> None:
    events = START + TOKEN + TOKEN + DONE
    outcome = await ask(stream(*(events[i : i + 7] for i in range(0, len(events), 7))))
    assert (outcome.error, outcome.n_tokens) == (None, 4)


async def test_an_answer_without_text_has_its_first_token_when_it_ends(ask: Asking) -> None:
    outcome = await ask(stream(START, DONE))
    assert outcome.error is None
    assert outcome.ttft_s == outcome.end_s
    assert outcome.itl_s is None


async def test_what_is_sent_late_has_waited(ask: Asking) -> None:
    """Coordinated omission: the caller would have waited since it wanted to ask."""
    outcome = await ask(stream(START, TOKEN, DONE), due_s=-1000.0, timeout_s=2000.0)
    assert outcome.lag_s >= 1000.0
    assert outcome.ttft_s is not None
    assert outcome.end_s >= outcome.ttft_s >= 1000.0


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (whole(503, OVERLOADED), "overloaded"),
        (whole(429, LIMITED), "rate_limit_exceeded"),
        (whole(502, b"<html>Bad Gateway</html>"), "http_502"),
        (whole(500, b'{"error": "oops"}'), "http_500"),
        (whole(200, b"<html>Welcome</html>"), "cut_off"),
        (stream(START, TOKEN, FAILED), "overloaded"),
        (stream(START, TOKEN, b"event: error\ndata: x\n\n"), "error"),
        (stream(START, TOKEN), "cut_off"),
        (stream(START, TOKEN, DONE[:-2]), "cut_off"),
        (stream(START, TOKEN, cut=True), "cut_off"),
        (stream(cut=True), "connection"),
        (stream(START, TOKEN, b'event: done\ndata: {"usage":{}}\n\n'), "cut_off"),
    ],
)  # fmt: skip
async def test_what_is_no_answer(ask: Asking, answer: Answer, error: str) -> None:
    outcome = await ask(answer)
    assert (outcome.error, outcome.ttft_s, outcome.n_tokens) == (error, None, 0)


async def test_no_answer_in_time(ask: Asking) -> None:
    async def never(request: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        return web.Response()

    assert (await ask(never, timeout_s=0.05)).error == "timeout"


async def test_nobody_listens() -> None:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))  # and does not listen
        async with aiohttp.ClientSession(f"http://127.0.0.1:{own.getsockname()[1]}/") as session:
            outcome = await Client(session, timeout_s=30).ask(ASK, 0.0, asyncio.get_running_loop().time())
    assert outcome.error == "connection"


async def test_what_is_asked_for(ask: Asking) -> None:
    bodies = []

    async def answer(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        return await stream(START, TOKEN, DONE)(request)

    await ask(answer)
    assert bodies == [
        {
            "prompt": "Write a function",
            "adapter": "code",
            "max_tokens": 16,
            "stream": True,
            "temperature": 0.0,
        }
    ]
