"""What a batch waits for, and how long: limits, the engine, a database that is away, its window."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import openai
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from adaptive_lora.adapters.registry_database import Database, sqlite_url
from adaptive_lora.adapters.registry_tables import batch_results, batches, files
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.errors import AdaptiveLoraError, DeadlineExceeded, EngineError, Overloaded, WorkerLost
from adaptive_lora.serving.batches import waiting
from adaptive_lora.serving.batches.items import MAX_TRIES
from adaptive_lora.types import GenerateRequest, TokenChunk
from tests.serving.batches.conftest import (
    OpenClient,
    chats,
    ended,
    line,
    read,
    running,
    start,
    until_done,
    upload,
)
from tests.serving.conftest import until

Build = Callable[..., FastAPI]


class Faulty(FakeEngine):
    """Raises what it is told to, for prompts that begin with "item"."""

    def __init__(self, *errors: AdaptiveLoraError) -> None:
        super().__init__()
        self.errors = list(errors)
        self.n_asked = 0

    async def _generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        if "item" in str(request.prompt):
            self.n_asked += 1
            if self.errors:
                raise self.errors.pop(0)
        async for chunk in super()._generate(request):
            yield chunk


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(waiting, "MAX_WAIT_S", 0.05)


async def test_what_passes_is_waited_for(open_client: OpenClient) -> None:
    """As often as need be for room, and the errors of the engine itself a few times."""
    engine = Faulty(*[Overloaded("full")] * 20, WorkerLost("gone"), EngineError("odd"))
    async with open_client(engine=engine, batches={"max_in_flight": 1}) as client:
        done = await ended(client, (await start(client, chats(2))).id)
    counts = done.request_counts
    assert counts is not None
    assert (done.status, counts.completed, counts.failed) == ("completed", 2, 0)
    assert engine.n_asked == 24


async def test_a_request_that_the_engine_fails_at_again_and_again_is_an_error(
    open_client: OpenClient,
) -> None:
    engine = Faulty(*[WorkerLost("gone")] * MAX_TRIES)
    async with open_client(engine=engine, batches={"max_in_flight": 1}) as client:
        done = await ended(client, (await start(client, chats(2))).id)
        failed = await read(client, done.error_file_id)
    assert engine.n_asked == MAX_TRIES + 1
    (error,) = failed.values()
    assert (error["response"]["status_code"], error["response"]["body"]["error"]["code"]) == (
        503,
        "worker_lost",
    )


async def test_limits_are_the_callers_and_are_waited_for(open_client: OpenClient) -> None:
    """A burst of 3, of which the requests here take some; the others come at 6,000 a minute."""
    limits = {"enabled": True, "requests_per_minute": 6_000, "burst_size": 8}
    async with open_client(rate_limiting=limits, batches={"max_in_flight": 8}) as client:
        batch = await start(client, chats(40))
        async with asyncio.timeout(60):
            while True:
                try:
                    if (await client.batches.retrieve(batch.id)).status == "completed":
                        break
                except openai.RateLimitError:
                    pass  # one caller, one limit
                await asyncio.sleep(0.05)
        metrics = (await client._client.get("/metrics")).text
    assert 'batch_requests_total{outcome="completed"} 40.0' in metrics
    assert 'batch_requests_total{outcome="retried"}' in metrics
    assert 'rate_limited_total{reason="requests"}' in metrics


async def test_a_spent_budget_is_an_error_at_once(open_client: OpenClient) -> None:
    limits = {"enabled": True, "requests_per_minute": None, "tokens_per_month": 60}
    async with open_client(rate_limiting=limits, batches={"max_in_flight": 1}) as client:
        done = await ended(client, (await start(client, chats(20))).id)
        answers = await read(client, done.output_file_id)
        failed = await read(client, done.error_file_id)
    assert done.status == "completed"
    assert 0 < len(answers) < 20
    assert len(answers) + len(failed) == 20
    assert {each["response"]["body"]["error"]["code"] for each in failed.values()} == {"insufficient_quota"}


async def test_a_batch_expires_with_what_it_has(build: Build) -> None:
    app = build(engine=FakeEngine(delay_s=0.01), batches={"max_in_flight": 2, "takeover": 1})
    slow = {"model": "code", "messages": [{"role": "user", "content": "x"}], "ignore_eos": True}
    async with running(app) as client:
        batch = await start(client, [*chats(2), *(line(f"slow-{i}", slow) for i in range(5))])
        await until_done(client, batch.id, 2)
        app.state.desk.now = lambda: datetime.now(UTC) + timedelta(hours=24)
        done = await ended(client, batch.id)
        answers = await read(client, done.output_file_id)
        failed = await read(client, done.error_file_id)
    assert done.status == "expired"
    assert done.expired_at is not None
    assert done.expired_at >= (done.expires_at or 0)
    assert answers.keys() == {"item-0", "item-1"}
    assert failed.keys() == {f"slow-{i}" for i in range(5)}
    assert {each["error"]["code"] for each in failed.values()} == {"batch_expired"}
    assert {each["response"] for each in failed.values()} == {None}


async def test_a_batch_that_nobody_has_run_expires(build: Build) -> None:
    app = build(batches={"max_in_flight": 0})
    async with running(app) as client:
        batch = await start(client, chats(2))
    app = build(batches={"takeover": 1})
    app.state.desk.now = lambda: datetime.now(UTC) + timedelta(hours=25)
    async with running(app) as client:
        done = await ended(client, batch.id)
        failed = await read(client, done.error_file_id)
    assert (done.status, done.output_file_id) == ("expired", None)
    assert {name: each["error"]["code"] for name, each in failed.items()} == dict.fromkeys(
        ("item-0", "item-1"), "batch_expired"
    )
    assert done.request_counts is not None
    assert (done.request_counts.total, done.request_counts.failed) == (2, 2)


async def test_what_has_expired_while_no_gateway_ran_has_its_lines_too(build: Build) -> None:
    async with running(build(engine=FakeEngine(delay_s=0.01), batches={"max_in_flight": 1})) as client:
        batch = await start(client, chats(40))
        await until_done(client, batch.id, 3)
    app = build(engine=FakeEngine())
    app.state.desk.now = lambda: datetime.now(UTC) + timedelta(hours=25)
    async with running(app) as client:
        done = await ended(client, batch.id)
        answers = await read(client, done.output_file_id)
        failed = await read(client, done.error_file_id)
    counts = done.request_counts
    assert counts is not None
    assert (done.status, counts.total) == ("expired", 40)
    assert (counts.completed, counts.failed) == (len(answers), len(failed))
    assert answers.keys() | failed.keys() == {f"item-{i}" for i in range(40)}
    assert len(answers) + len(failed) == 40


async def test_files_and_ended_batches_go_when_their_time_is_up(build: Build, state_home: Path) -> None:
    app = build()
    async with running(app) as client:
        done = await ended(client, (await start(client, chats(1))).id)
        (folder,) = state_home.glob("**/files")  # noqa: ASYNC240 - a test may block
        assert len(list(folder.iterdir())) == 2
        still_there = await upload(client, ["{}"])
    app = build()
    app.state.desk.now = lambda: datetime.now(UTC) + timedelta(days=29)
    async with running(app) as client:
        fresh = await upload(client, ["{}"])
    app = build()
    app.state.desk.now = lambda: datetime.now(UTC) + timedelta(days=31)
    async with running(app) as client:
        await until(lambda: [path.name for path in folder.iterdir()] == [fresh])
        for ask, gone in (
            (client.batches.retrieve, done.id),
            (client.files.retrieve, done.output_file_id),
            (client.files.retrieve, still_there),
        ):
            with pytest.raises(openai.NotFoundError):
                await ask(gone)  # type: ignore[operator]


async def test_while_the_database_is_away_a_batch_waits(build: Build, tmp_path: Path) -> None:
    """Locked, which looks the same from here. What was answered meanwhile is kept; nothing is asked twice."""
    engine = Faulty()
    app = build(engine=engine, storage={"path": str(tmp_path)}, batches={"max_in_flight": 1, "takeover": 600})
    database = Database(sqlite_url(tmp_path / "registry.db"), timeout_s=5)
    async with running(app) as client:
        stores = await app.state.desk.call(lambda stores: stores)
        stores.database._engine.dispose()
        sa.event.listen(stores.database._engine, "connect", _impatient)
        batch = await start(client, chats(30))
        await until_done(client, batch.id, 3)
        with database.transaction(change=True):
            n_before = engine.n_asked
            await asyncio.to_thread(time.sleep, 0.5)
            assert engine.n_asked <= n_before + 1
        done = await ended(client, batch.id)
        answers = await read(client, done.output_file_id)
    database.close()
    assert (done.status, len(answers), engine.n_asked) == ("completed", 30, 30)


def _impatient(connection: Any, _: object) -> None:
    connection.execute("PRAGMA busy_timeout = 50")


async def test_the_checkpoint_is_empty_when_a_batch_has_ended(build: Build, tmp_path: Path) -> None:
    app = build(storage={"path": str(tmp_path)})
    async with running(app) as client:
        await ended(client, (await start(client, chats(3))).id)
        stores = await app.state.desk.call(lambda stores: stores)
        with stores.database.transaction() as connection:
            counts = [
                connection.scalars(sa.select(sa.func.count()).select_from(table)).one()
                for table in (batch_results, batches, files)
            ]
    assert counts == [0, 1, 2]


async def test_a_request_waits_longer_than_one_of_a_route_may(open_client: OpenClient) -> None:
    """api.timeout is for callers who wait; the batch's window is its deadline."""
    body = {
        "model": "base",
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 40,
        "ignore_eos": True,
    }
    async with open_client(engine=FakeEngine(delay_s=0.02), api={"timeout": 0.3}) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.post("/chat/completions", body=body, cast_to=object)
        assert caught.value.code == DeadlineExceeded.code
        done = await ended(client, (await start(client, [line("a", body)])).id)
        assert (await read(client, done.output_file_id)).keys() == {"a"}


async def test_a_dead_engine_fails_no_request(build: Build) -> None:
    """Its process ends, and so does the gateway's; the next goes on."""
    engine = FakeEngine(delay_s=0.01)
    app = build(engine=engine, batches={"max_in_flight": 2})
    async with running(app) as client:
        batch = await start(client, chats(40))
        before = await until_done(client, batch.id, 3)
        engine.die()
        await until(lambda: app.state.runtime.phase == "failed")
    async with running(build(engine=FakeEngine())) as client:
        done = await ended(client, batch.id)
    counts = done.request_counts
    assert before.request_counts is not None
    assert before.request_counts.completed < 40
    assert counts is not None
    assert (done.status, counts.completed, counts.failed) == ("completed", 40, 0)
