"""The keys of `batches`: how much may be left here, and how it is run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from adaptive_lora.adapters.registry_database import Database, sqlite_url
from adaptive_lora.adapters.registry_tables import batches
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.types import GenerateRequest, TokenChunk
from tests.settings.effects import key, serving

LIMIT_BYTES = 1_000


def lines(n: int) -> bytes:
    body = {"model": "base", "prompt": "x", "max_tokens": 3, "ignore_eos": True}
    usual = {"method": "POST", "url": "/v1/completions", "body": body}
    return b"".join(json.dumps({"custom_id": f"{i}"} | usual).encode() + b"\n" for i in range(n))


async def upload(client: httpx.AsyncClient, content: bytes) -> httpx.Response:
    return await client.post("/v1/files", files={"file": ("in.jsonl", content)}, data={"purpose": "batch"})


async def start(client: httpx.AsyncClient, n: int) -> httpx.Response:
    body = {
        "input_file_id": (await upload(client, lines(n))).json()["id"],
        "endpoint": "/v1/completions",
        "completion_window": "24h",
    }
    return await client.post("/v1/batches", json=body)


async def ended(client: httpx.AsyncClient, batch: httpx.Response) -> dict[str, object]:
    async with asyncio.timeout(60):
        while True:
            found: dict[str, object] = (await client.get(f"/v1/batches/{batch.json()['id']}")).json()
            if found["status"] in ("completed", "failed"):
                return found
            await asyncio.sleep(0.01)


class Crowd(FakeEngine):
    """Knows how many requests it had at once."""

    def __init__(self) -> None:
        super().__init__(delay_s=0.005)
        self.n_now = self.n_most = 0

    async def _generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        self.n_now += 1
        self.n_most = max(self.n_most, self.n_now)
        try:
            async for chunk in super()._generate(request):
                yield chunk
        finally:
            self.n_now -= 1


@key("batches.max_in_flight")
@pytest.mark.parametrize("n", [1, 3])
async def test_so_many_requests_of_batches_are_in_flight(n: int) -> None:
    engine = Crowd()
    async with serving(engine, batches={"max_in_flight": n}) as client:
        engine.n_most = 0
        await ended(client, await start(client, 8))
    assert engine.n_most == n


@key("batches.max_requests")
async def test_a_batch_with_more_requests_fails() -> None:
    async with serving(batches={"max_requests": 2}) as client:
        enough, too_many = [await ended(client, await start(client, n)) for n in (2, 3)]
    assert enough["status"] == "completed"
    assert too_many["status"] == "failed"
    assert "too_many_requests" in str(too_many["errors"])


@key("batches.max_unfinished")
async def test_so_many_batches_may_wait() -> None:
    async with serving(batches={"max_in_flight": 0, "max_unfinished": 2}) as client:
        answers = [await start(client, 1) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 403]
    assert answers[2].json()["error"]["code"] == "quota_exceeded"


@key("batches.max_file_bytes")
async def test_a_larger_file_is_refused() -> None:
    async with serving(batches={"max_file_bytes": LIMIT_BYTES}) as client:
        answers = [await upload(client, b"x" * n) for n in (LIMIT_BYTES, LIMIT_BYTES + 1)]
    assert [answer.status_code for answer in answers] == [200, 413]


@key("batches.max_stored_bytes")
async def test_a_tenants_files_have_an_upper_bound_until_some_are_deleted() -> None:
    async with serving(batches={"max_stored_bytes": LIMIT_BYTES}) as client:
        first = await upload(client, b"x" * LIMIT_BYTES)
        second = await upload(client, b"x")
        await client.delete(f"/v1/files/{first.json()['id']}")
        third = await upload(client, b"x")
    assert [answer.status_code for answer in (first, second, third)] == [200, 403, 200]


@key("batches.retention")
async def test_files_expire_after_it() -> None:
    async with serving(batches={"retention": 7_200}) as client:
        file = (await upload(client, lines(1))).json()
        batch = await ended(client, await start(client, 1))
        output = (await client.get(f"/v1/files/{batch['output_file_id']}")).json()
    for each in (file, output):
        assert each["expires_at"] - each["created_at"] == 7_200


@key("batches.takeover")
async def test_a_batch_is_held_for_that_long(tmp_path: Path) -> None:
    bounds = {}
    for takeover in (60, 600):
        state = tmp_path / str(takeover)
        settings = {"batches": {"takeover": takeover}, "storage": {"path": str(state)}}
        async with serving(FakeEngine(delay_s=0.2), **settings) as client:
            await start(client, 200)
            database = Database(sqlite_url(state / "registry.db"), timeout_s=5)
            held_until = None
            while held_until is None:
                with database.transaction() as connection:
                    held_until = connection.scalars(sa.select(batches.c.held_until)).one()
                await asyncio.sleep(0.01)
            database.close()
        bounds[takeover] = held_until - datetime.now(UTC)
    assert bounds[60] <= timedelta(seconds=60) < bounds[600] <= timedelta(seconds=600)
