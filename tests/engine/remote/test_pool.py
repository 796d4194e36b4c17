"""The pool under faults: workers that die, hang, lie, restart empty, join and leave. Real sockets."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from adaptive_lora.engine.collect import collect
from adaptive_lora.engine.remote import discovery
from adaptive_lora.engine.remote.balance import rank
from adaptive_lora.engine.remote.engine import RemoteEngine
from adaptive_lora.errors import (
    AdapterError,
    EngineError,
    EngineNotReady,
    SettingsError,
    UnknownAdapter,
    WorkerLost,
)
from tests.engine.conformance import LONG, complete, idle, request
from tests.engine.remote.fake_worker import FakeWorker, adapter, running, settings, until

CODE, PROSE = adapter("code"), adapter("prose")


@asynccontextmanager
async def pool(*workers: FakeWorker, n_up: int | None = None, **keys):
    """A started engine whose workers are all proven."""
    async with running(*workers):
        engine = RemoteEngine("fake", settings(*workers, **keys), max_lora_rank=64)
        await engine.start()
        await until(lambda: len(engine._pool.usable()) == (len(workers) if n_up is None else n_up))
        try:
            yield engine
        finally:
            await engine.stop()


def home_of(adapter_id: str, *workers: FakeWorker) -> tuple[FakeWorker, FakeWorker]:
    """The adapter's home, and its next."""
    by_url = {worker.url: worker for worker in workers}
    first, second = (by_url[url] for url in rank(adapter_id, by_url)[:2])
    return first, second


def state_of(engine: RemoteEngine, worker: FakeWorker) -> str:
    return engine._pool.workers[worker.url].breaker.state


async def answers_of(engine: RemoteEngine, n: int, adapter_id=CODE.id):
    """What `n` requests at once end in."""
    return await asyncio.gather(
        *(complete(engine, adapter_id=adapter_id) for _ in range(n)), return_exceptions=True
    )


@pytest.mark.parametrize("fault", ["hang", "error"])
async def test_who_has_no_token_yet_is_answered_by_another_worker(fault):
    workers = [FakeWorker([CODE]) for _ in range(2)]
    async with pool(*workers) as engine:
        await engine.load(CODE)
        want = await complete(engine, adapter_id=CODE.id)
        home, other = home_of(CODE.id, *workers)
        home.fault = fault
        assert await answers_of(engine, 5) == [want] * 5
        await until(lambda: state_of(engine, home) != "closed")
        n_tried = home.n_generations
        assert await answers_of(engine, 5) == [want] * 5
        assert home.n_generations - n_tried <= 2, "canaries at most: no caller tries a worker that is out"
        home.fault = None
        await until(lambda: state_of(engine, home) == "closed")
        assert other.loads == [CODE.id]


@pytest.mark.parametrize("n_chunks", [0, 1, 3])
@pytest.mark.parametrize("fault", ["cut", "stall"])
async def test_after_the_first_token_a_lost_worker_is_an_error(fault, n_chunks):
    workers = [FakeWorker([CODE]) for _ in range(2)]
    async with pool(*workers) as engine:
        await engine.load(CODE)
        want = await complete(engine, adapter_id=CODE.id)
        home, _ = home_of(CODE.id, *workers)
        home.fault, home.n_chunks = fault, n_chunks
        if n_chunks == 0:
            assert await complete(engine, adapter_id=CODE.id) == want
            return
        seen = []
        with pytest.raises(WorkerLost, match="ask again"):
            await read_into(seen, engine.generate(request(adapter_id=CODE.id)))
        assert "".join(chunk.text for chunk in seen) == want.text[: sum(len(c.text) for c in seen)]
        assert sum(chunk.n_tokens for chunk in seen) == n_chunks


async def test_the_connection_of_a_complete_answer_is_used_again_and_that_of_an_aborted_one_is_closed():
    worker = FakeWorker()
    async with pool(worker, canary_interval=60, refresh_interval=60) as engine:
        worker.connections.clear()
        for _ in range(5):
            await complete(engine)
            await until(lambda: not engine._pool.workers[worker.url]._transport._ending)
        assert len(worker.connections) == 1
        async with aclosing(engine.generate(request(sampling=LONG))) as chunks:
            await anext(chunks)
        await idle(worker.engine)
        await complete(engine)
        assert len(worker.connections) == 2


async def read_into(seen, stream):
    async with aclosing(stream) as chunks:
        async for chunk in chunks:
            seen.append(chunk)


async def test_kill_9_while_requests_run():
    workers = [FakeWorker([CODE, PROSE], delay_s=0.005) for _ in range(2)]
    async with pool(*workers) as engine:
        await engine.load(CODE)
        home, _ = home_of(CODE.id, *workers)
        streams = [engine.generate(request(sampling=LONG, adapter_id=CODE.id)) for _ in range(3)]
        for stream in streams:
            await anext(stream)
        fresh = asyncio.create_task(answers_of(engine, 5))
        await home.kill()
        for stream in streams:
            with pytest.raises(WorkerLost):
                await collect(stream)
        lost_or_done = await fresh
        assert all(not isinstance(a, BaseException) or isinstance(a, WorkerLost) for a in lost_or_done)
        assert not [a for a in await answers_of(engine, 5) if isinstance(a, BaseException)]
        await idle(engine)


async def test_a_worker_that_restarts_empty_is_supplied_again():
    workers = [FakeWorker([CODE, PROSE]) for _ in range(2)]
    async with pool(*workers) as engine:
        for one in (CODE, PROSE):
            await engine.load(one)
        want = await complete(engine, adapter_id=CODE.id)
        home, _ = home_of(CODE.id, *workers)
        home.loads.clear()
        await home.restart()
        assert await complete(engine, adapter_id=CODE.id) == want
        await until(lambda: CODE.id in home.loads)
        await until(lambda: state_of(engine, home) == "closed")
        assert await complete(engine, adapter_id=CODE.id) == want


async def test_unload_reaches_an_adapter_that_a_worker_is_just_loading():
    worker = FakeWorker([CODE])
    async with pool(worker) as engine:
        await engine.load(CODE)
        worker.may_load.clear()
        await worker.restart()
        await until(lambda: worker.loads == [CODE.id, CODE.id])
        unloading = asyncio.create_task(engine.unload(CODE.id))
        await until(lambda: CODE.id not in engine.adapters)
        worker.may_load.set()
        await unloading
        await until(lambda: worker.loaded == [CODE.id, CODE.id])
        assert CODE.id not in worker.engine.adapters


async def test_an_adapter_is_loaded_and_unloaded_one_at_a_time():
    """Who unloads while a load waits for an unload does so after it."""
    worker = FakeWorker([CODE])
    async with pool(worker) as engine:
        await engine.load(CODE)
        engine._pool.forget(CODE.id)  # its watcher leaves it alone
        inside = engine._pool.workers[worker.url]
        first = asyncio.create_task(inside.drop(CODE.id))
        load = asyncio.create_task(inside.ensure(CODE))
        await first
        await inside.drop(CODE.id)
        await load
        assert CODE.id not in worker.engine.adapters


async def test_a_worker_that_lost_its_adapter_loads_it_and_goes_on():
    """Somebody else has unloaded it there: the worker says 404, and nobody sees it."""
    worker = FakeWorker([CODE])
    async with pool(worker) as engine:
        await engine.load(CODE)
        want = await complete(engine, adapter_id=CODE.id)
        await worker.engine.unload(CODE.id)
        del worker.files[CODE.id]
        with pytest.raises(AdapterError, match="cannot get the files"):
            await complete(engine, adapter_id=CODE.id)
        worker.files[CODE.id] = CODE
        assert await complete(engine, adapter_id=CODE.id) == want
        assert await engine.answer_logprobs("x", "yes", CODE.id)


async def test_a_hung_worker_is_found_out_without_any_request():
    """/stats answers, tokens do not come: "health OK while requests stall"."""
    workers = [FakeWorker() for _ in range(2)]
    async with pool(*workers) as engine:
        workers[0].fault = "hang"
        await until(lambda: state_of(engine, workers[0]) == "open")
        before = workers[1].n_generations
        assert not [a for a in await answers_of(engine, 5, None) if isinstance(a, BaseException)]
        assert workers[1].n_generations - before >= 5
        workers[0].fault = None
        await until(lambda: state_of(engine, workers[0]) == "closed")


@pytest.mark.parametrize("is_loaded", [True, False])
async def test_a_frozen_worker_costs_nobody_more_than_the_first_token_timeout(monkeypatch, is_loaded):
    """Its port accepts connections; whether the adapter is there already or must be loaded first."""
    monkeypatch.setattr("adaptive_lora.engine.remote.dialects.ASK_TIMEOUT_S", 0.3)
    workers = [FakeWorker([CODE]) for _ in range(2)]
    async with pool(*workers, canary_interval=60) as engine:
        await engine.load(CODE)
        want = await complete(engine, adapter_id=CODE.id)
        home, _ = home_of(CODE.id, *workers)
        if not is_loaded:
            engine._pool.workers[home.url].forget()
        home.fault = "freeze"
        async with asyncio.timeout(20):
            assert await answers_of(engine, 5) == [want] * 5
        await until(lambda: state_of(engine, home) == "open")
        home.fault = None
        await until(lambda: state_of(engine, home) == "closed")


async def test_a_slow_worker_is_not_a_hung_one():
    worker = FakeWorker()
    worker.fault = "slow"
    async with pool(worker, first_token_timeout=10, canary_timeout=10) as engine:
        assert (await complete(engine)).text
        assert state_of(engine, worker) == "closed"


async def test_nobody_left_is_said_and_whoever_comes_back_is_used(monkeypatch):
    monkeypatch.setattr("adaptive_lora.engine.remote.pool.UNAVAILABLE_WAIT_S", 0.2)
    worker = FakeWorker([CODE])
    async with pool(worker) as engine:
        await engine.load(CODE)
        await worker.kill()
        with pytest.raises(EngineNotReady):
            await complete(engine, adapter_id=CODE.id)
        assert (await engine.stats()).running == 0
        await worker.start()
        await until(lambda: state_of(engine, worker) == "closed")
        assert (await complete(engine, adapter_id=CODE.id)).text


async def test_requests_wait_for_the_only_worker_to_come_back():
    worker = FakeWorker([CODE])
    async with pool(worker) as engine:
        await engine.load(CODE)
        want = await complete(engine, adapter_id=CODE.id)
        await worker.kill()
        await until(lambda: state_of(engine, worker) != "closed")
        waiting = asyncio.create_task(complete(engine, adapter_id=CODE.id))
        await worker.start()
        assert await waiting == want


async def test_workers_join_and_leave_by_dns(monkeypatch):
    workers = [FakeWorker([CODE]) for _ in range(2)]
    present = [workers[0]]

    async def resolve(name):
        assert name == "workers.fleet:8000"
        if not present:
            raise OSError(-2, "Name or service not known")
        return [discovery.Address(worker.url) for worker in present]

    monkeypatch.setattr(discovery, "resolve", resolve)
    async with running(*workers):
        engine = RemoteEngine("fake", settings(dns="workers.fleet:8000", urls=()), max_lora_rank=64)
        await engine.start()
        await engine.load(CODE)
        want = await complete(engine, adapter_id=CODE.id)
        present.append(workers[1])
        await until(lambda: len(engine._pool.usable()) == 2)
        stream = engine.generate(request(sampling=LONG, adapter_id=CODE.id))
        first = await anext(stream)
        home, other = home_of(CODE.id, *workers)
        present.remove(home)
        await until(lambda: len(engine._pool.workers) == 1)
        assert await complete(engine, adapter_id=CODE.id) == want
        assert CODE.id in other.loads
        rest = [chunk async for chunk in stream]
        assert rest[-1].finish_reason == "length", "what ran on the worker that left goes on"
        assert first.text
        present.clear()
        await asyncio.sleep(0.2)
        assert await complete(engine, adapter_id=CODE.id) == want, "a resolver that fails takes nobody away"
        await engine.stop()


async def test_a_worker_with_another_base_model_is_kept_out():
    same, other = FakeWorker(), FakeWorker()
    other.fingerprint = "0" * 64
    async with running(same, other):
        engine = RemoteEngine("fake", settings(same, other), max_lora_rank=64)
        await engine.start()
        first = engine.base_fingerprint
        await until(lambda: "another base model" in engine._pool.complaints())
        assert len(engine._pool.usable()) == 1
        assert engine.base_fingerprint == first
        await engine.stop()


async def test_a_pin_is_declared_once_and_follows_the_adapter():
    workers = [FakeWorker([CODE]) for _ in range(2)]
    async with pool(*workers) as engine:
        await engine.load(CODE)
        await engine.pin(CODE.id)
        home, other = home_of(CODE.id, *workers)
        assert home.engine._in_flight.pinned == {CODE.id}
        await home.kill()
        await until(lambda: other.engine._in_flight.pinned == {CODE.id})
        await home.start()
        await until(lambda: home.engine._in_flight.pinned == {CODE.id})
        await until(lambda: not other.engine._in_flight.pinned)
        await engine.unpin(CODE.id)
        assert not home.engine._in_flight.pinned
        await engine.unload(CODE.id)
        assert CODE.id not in home.engine.adapters


async def test_unload_frees_every_worker():
    workers = [FakeWorker([CODE]) for _ in range(2)]
    async with pool(*workers) as engine:
        await engine.load(CODE)
        for worker in engine._pool.workers.values():
            await worker.ensure(CODE)
        await engine.unload(CODE.id)
        assert not any(worker.engine.adapters for worker in workers)
        with pytest.raises(UnknownAdapter):
            await complete(engine, adapter_id=CODE.id)


async def test_adapters_stay_where_they_are_loaded():
    fleet = [adapter(f"agent-{i}") for i in range(12)]
    workers = [FakeWorker(fleet) for _ in range(3)]
    async with pool(*workers) as engine:
        for one in fleet:
            await engine.load(one)
        for _ in range(3):
            await asyncio.gather(*(complete(engine, adapter_id=one.id) for one in fleet))
        assert sorted(i for worker in workers for i in worker.loads) == sorted(one.id for one in fleet)
        assert all(worker.loads for worker in workers)


async def test_an_adapter_that_no_worker_can_get_is_refused():
    async with pool(FakeWorker(), FakeWorker()) as engine:
        with pytest.raises(AdapterError, match="cannot get the files of code@0123456789ab"):
            await engine.load(CODE)
        assert not engine.adapters


async def test_what_another_server_is_is_said():
    """Somebody's web server on the worker's address."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 302, "headers": [(b"location", b"http://a/")]})
        await send({"type": "http.response.body", "body": b""})

    worker = FakeWorker()
    worker._faulty = lambda _: app
    async with running(worker):
        engine = RemoteEngine("fake", settings(worker, start_timeout=0.3), max_lora_rank=64)
        with pytest.raises(EngineError, match="redirects, which is not followed"):
            await engine.start()
        await engine.stop()


async def test_no_proxy_of_the_environment_is_used(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with pool(FakeWorker()) as engine:
        assert (await complete(engine)).text


async def test_every_endpoint_of_a_worker_demands_the_key():
    worker = FakeWorker()
    async with running(worker), httpx.AsyncClient(base_url=worker.url) as client:
        for method, path in (
            ("GET", "worker"),
            ("GET", "stats"),
            ("POST", "generate"),
            ("POST", "count-tokens"),
            ("POST", "score"),
            ("PUT", "adapters/code@0123456789ab"),
            ("DELETE", "adapters/code@0123456789ab"),
            ("PUT", "adapters/code@0123456789ab/pin"),
            ("DELETE", "adapters/code@0123456789ab/pin"),
            ("GET", "no-such-path"),
        ):
            for key in (None, "Bearer", "Bearer wrong", "Basic a key for tests"):
                headers = {} if key is None else {"authorization": key}
                answer = await client.request(method, f"/adaptive-lora/v1/{path}", headers=headers)
                assert answer.status_code == 401, (method, path, key)


@pytest.mark.parametrize(
    "url", ["", "host", "host:80/path", "ftp://host:80", "http://host", "http://user@host:80", "http://h:x"]
)
async def test_what_is_no_address(url):
    with pytest.raises(SettingsError, match="no worker's address"):
        discovery.listed((url,))


@pytest.mark.parametrize(
    ("fingerprints", "known"),
    [(("a", "a"), "a"), (("a", "b"), None), (("a", None), None), ((None, None), None)],
)
async def test_what_turns_text_into_tokens_is_known_while_all_workers_agree(fingerprints, known):
    """Answers are cached by it."""
    workers = [FakeWorker() for _ in fingerprints]
    for worker, fingerprint in zip(workers, fingerprints, strict=True):
        worker.text_fingerprint = fingerprint
    async with pool(*workers) as engine:
        assert engine.text_fingerprint == known


async def test_a_callers_salt_reaches_the_workers_engine():
    worker = FakeWorker()
    async with pool(worker) as engine:
        seen = []
        generate = worker.engine.generate
        worker.engine.generate = lambda asked: seen.append(asked) or generate(asked)
        salted = replace(request(), cache_salt="f" * 32)
        await collect(engine.generate(salted))
        assert [asked.cache_salt for asked in seen if asked.request_id == salted.request_id] == ["f" * 32]
