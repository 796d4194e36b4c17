"""Each key of `workers` does what it says, against workers on real sockets."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adaptive_lora.engine.factory import build_engine
from adaptive_lora.engine.remote import transport
from adaptive_lora.engine.remote.engine import RemoteEngine
from adaptive_lora.errors import EngineError, EngineNotReady, Overloaded, WorkerLost
from adaptive_lora.settings import Settings
from tests.engine.conformance import LONG, complete, request
from tests.engine.remote.certificates import certificate
from tests.engine.remote.fake_worker import KEY, QUICK, FakeWorker, adapter, running, until
from tests.settings.effects import key


def engine_of(*workers: FakeWorker, **keys: Any) -> RemoteEngine:
    section = QUICK | ({"urls": [worker.url for worker in workers]} if workers else {}) | keys
    settings = Settings.model_validate({"model": {"engine": "remote", "base_model": "x"}, "workers": section})
    engine = build_engine(settings.model, settings.adapters, settings.inference, settings.workers)
    assert isinstance(engine, RemoteEngine)
    return engine


@asynccontextmanager
async def started(*workers: FakeWorker, **keys: Any):
    async with running(*workers):
        engine = engine_of(*workers, **keys)
        await engine.start()
        try:
            yield engine
        finally:
            await engine.stop()


@key("workers.urls", "workers.api_key")
async def test_urls_and_key() -> None:
    worker = FakeWorker()
    async with started(worker, api_key=KEY) as engine:
        assert (await complete(engine)).text
    async with running(worker := FakeWorker()):
        engine = engine_of(worker, api_key="another key", start_timeout=0.5)
        with pytest.raises(EngineError, match=r"refuses the API key \(workers.api_key\)"):
            await engine.start()
        await engine.stop()


@key("workers.dns")
async def test_dns() -> None:
    async with running(worker := FakeWorker()):
        engine = engine_of(dns=f"localhost:{worker.port}")
        await engine.start()
        assert (await complete(engine)).text
        await engine.stop()


@key("workers.tls_verify", "workers.ca_file")
async def test_tls(tmp_path: Path) -> None:
    """A certificate for the name that is resolved, of an authority that the system does not know."""
    authority, pair = certificate(tmp_path, "localhost")
    async with running(worker := FakeWorker(tls=pair)):
        dns = f"https://localhost:{worker.port}"
        for keys in ({"ca_file": str(authority)}, {"tls_verify": False}):
            engine = engine_of(dns=dns, **keys)
            await engine.start()
            assert (await complete(engine)).text
            await engine.stop()
        engine = engine_of(dns=dns, start_timeout=0.5)
        with pytest.raises(EngineError, match="no worker generates"):
            await engine.start()
        await engine.stop()


@key("workers.max_connections")
async def test_max_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "CONNECT_TIMEOUT_S", 0.1)
    async with started(FakeWorker(delay_s=0.01), max_connections=1, max_attempts=1) as engine:
        first = engine.generate(request(sampling=LONG))
        await anext(first)
        with pytest.raises(Overloaded):
            await complete(engine)
        await first.aclose()
        assert (await complete(engine)).text


@key("workers.max_attempts")
@pytest.mark.parametrize("attempts", [1, 3])
async def test_max_attempts(attempts: int) -> None:
    workers = [FakeWorker(), FakeWorker(), FakeWorker()]
    async with started(*workers, max_attempts=attempts, canary_interval=60) as engine:
        await until(lambda: len(engine._pool.usable()) == 3)
        before = sum(worker.n_generations for worker in workers)
        for worker in workers:
            worker.fault = "error"
        with pytest.raises(EngineNotReady, match=f"{attempts} workers failed"):
            await complete(engine)
        assert sum(worker.n_generations for worker in workers) - before == attempts


@key("workers.max_replicas")
@pytest.mark.parametrize("replicas", [1, 2])
async def test_max_replicas(replicas: int) -> None:
    """One adapter has all the load of two workers."""
    hot = adapter("hot")
    workers = [FakeWorker([hot], delay_s=0.01, max_model_len=20_000) for _ in range(2)]
    async with started(*workers, max_replicas=replicas, chunk_timeout=30, first_token_timeout=30) as engine:
        await until(lambda: len(engine._pool.usable()) == 2)
        await engine.load(hot)
        streams = []
        for _ in range(6):
            stream = engine.generate(request(max_tokens=2000, adapter_id=hot.id))
            await anext(stream)
            streams.append(stream)
        assert sum(bool(worker.loads) for worker in workers) == replicas
        for stream in streams:
            await stream.aclose()


@key("workers.first_token_timeout")
async def test_first_token_timeout() -> None:
    worker = FakeWorker()
    async with started(worker, first_token_timeout=0.2, max_attempts=1, canary_interval=60) as engine:
        worker.fault = "hang"
        with pytest.raises(EngineNotReady, match=r"gave nothing for 0\.2 s"):
            await complete(engine)


@key("workers.chunk_timeout")
async def test_chunk_timeout() -> None:
    worker = FakeWorker()
    async with started(worker, chunk_timeout=0.2, canary_interval=60) as engine:
        worker.fault = "stall"
        with pytest.raises(WorkerLost, match=r"gave nothing for 0\.2 s"):
            await complete(engine)


@key("workers.start_timeout")
async def test_start_timeout() -> None:
    engine = engine_of(urls=["http://127.0.0.1:1"], start_timeout=0.2)
    with pytest.raises(EngineError, match=r"no worker generates after 0\.2 s: .*cannot be connected to"):
        await engine.start()
    await engine.stop()


@key("workers.refresh_interval")
async def test_refresh_interval() -> None:
    """Within it a restart is noticed, and what was declared is loaded again, with no request at all."""
    code = adapter("code")
    worker = FakeWorker([code])
    async with started(worker, refresh_interval=0.05, canary_interval=60) as engine:
        await engine.load(code)
        await worker.restart()
        await until(lambda: len(worker.loads) == 2)


@key("workers.canary_interval")
async def test_canary_interval() -> None:
    worker = FakeWorker()
    async with started(worker, canary_interval=0.1):
        before = worker.n_generations
        await until(lambda: worker.n_generations >= before + 2)
    worker = FakeWorker()
    async with started(worker, canary_interval=60):
        before = worker.n_generations
        await asyncio.sleep(0.3)
        assert worker.n_generations == before


@key("workers.canary_timeout")
async def test_canary_timeout() -> None:
    worker = FakeWorker()
    async with started(worker, canary_interval=0.1, canary_timeout=0.1) as engine:
        worker.fault = "hang"
        began = time.monotonic()
        await until(lambda: not engine._pool.usable())
        assert time.monotonic() - began >= 0.1
