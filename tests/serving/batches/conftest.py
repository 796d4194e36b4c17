"""Batches on FakeEngine, through OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI
from openai.types import Batch

from tests.serving.conftest import ready

CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")

OpenClient = Callable[..., AbstractAsyncContextManager[openai.AsyncOpenAI]]


def line(custom_id: str, body: dict[str, Any] | None = None, *, url: str = CHAT, **changes: Any) -> str:
    """One request of a batch; by default a chat that says its own id."""
    usual = {"model": "code", "messages": [{"role": "user", "content": custom_id}], "max_tokens": 4}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body or usual} | changes)


def chats(n: int) -> list[str]:
    return [line(f"item-{i}") for i in range(n)]


async def upload(client: openai.AsyncOpenAI, lines: Iterable[str], name: str = "in.jsonl") -> str:
    content = "".join(f"{each}\n" for each in lines).encode()
    return (await client.files.create(file=(name, content), purpose="batch")).id


async def start(client: openai.AsyncOpenAI, lines: Iterable[str], *, endpoint: Any = CHAT) -> Batch:
    file_id = await upload(client, lines)
    return await client.batches.create(
        input_file_id=file_id, endpoint=endpoint, completion_window="24h", metadata={"job": "nightly"}
    )


async def ended(client: openai.AsyncOpenAI, batch_id: str) -> Batch:
    """The batch, once it has come to an end; a minute is for machines that are busy with something else."""
    async with asyncio.timeout(60):
        while (batch := await client.batches.retrieve(batch_id)).status not in ENDED:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # it is a server's state
    return batch


async def until_done(client: openai.AsyncOpenAI, batch_id: str, n: int) -> Batch:
    """The batch, once `n` of its requests have been answered."""
    async with asyncio.timeout(60):
        while True:
            batch = await client.batches.retrieve(batch_id)
            if batch.request_counts is not None and batch.request_counts.completed >= n:
                return batch
            await asyncio.sleep(0.02)


async def read(client: openai.AsyncOpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    """The lines of an output or error file, by custom_id; none twice."""
    if file_id is None:
        return {}
    text = (await client.files.content(file_id)).text
    lines = [json.loads(each) for each in text.splitlines()]
    found = {each["custom_id"]: each for each in lines}
    assert len(found) == len(lines)
    return found


@asynccontextmanager
async def client_of(app: FastAPI, *, api_key: str = "none") -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client, which talks to the application without a network."""
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")
    async with openai.AsyncOpenAI(
        base_url="http://127.0.0.1/v1", api_key=api_key, max_retries=0, http_client=http
    ) as client:
        yield client


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[openai.AsyncOpenAI]:
    async with app.router.lifespan_context(app), client_of(app) as client:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as http:
            await ready(http)
        yield client


@pytest.fixture
def open_client(build: Callable[..., FastAPI]) -> OpenClient:
    @asynccontextmanager
    async def _open(**sections: Any) -> AsyncIterator[openai.AsyncOpenAI]:
        async with running(build(**sections)) as client:
            yield client

    return _open


@pytest.fixture
async def client(open_client: OpenClient) -> AsyncIterator[openai.AsyncOpenAI]:
    async with open_client() as client:
        yield client
