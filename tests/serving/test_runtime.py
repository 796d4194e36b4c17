"""From the first second to the last: loading, failing, stalling, stopping."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from adaptive_lora.adapters.registry import Registry
from adaptive_lora.agents.fleet import Fleet
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.errors import (
    AdapterError,
    EngineError,
    HashMismatch,
    RegistryUnavailable,
    WrongModules,
)
from adaptive_lora.serving import canary, loading
from adaptive_lora.serving import runtime as runtimes
from adaptive_lora.serving.api import create_app
from adaptive_lora.serving.runtime import Runtime
from adaptive_lora.settings import Settings
from adaptive_lora.telemetry.metrics import Metrics
from adaptive_lora.types import AdapterVersion
from tests.serving.conftest import CODE, CREATIVE, FLEET, KeywordRouter, ready, settings_of, until


@asynccontextmanager
async def started(engine: Any, **given: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Runtime, list[str]]]:
    failures: list[str] = []
    settings = settings_of(**given.pop("sections", {}))
    given = {"router": KeywordRouter(), **given}
    app = create_app(settings, engine=engine, on_failure=lambda: failures.append("failed"), **given)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        yield client, app.state.runtime, failures


async def until_phase(runtime: Runtime, phase: str) -> None:
    await until(lambda: runtime.phase == phase)


async def test_while_loading_it_is_live_and_not_ready() -> None:
    async with started(FakeEngine(start_delay_s=60)) as (client, _, _):
        assert (await client.get("/live")).status_code == 200
        response = await client.get("/ready")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_not_ready")
        assert response.headers["retry-after"] == "1"
        health = await client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "starting")
        metrics = (await client.get("/metrics")).text
        assert "adaptive_lora_ready 0.0" in metrics
        assert 'adaptive_lora_phase{phase="starting"} 1.0' in metrics
        assert "\nadaptive_lora_canary_age_seconds" not in metrics
        assert "\nregistry_up" not in metrics
        for path, body in [
            ("/generate", {"prompt": "x"}),
            ("/v1/completions", {"prompt": "x"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
            ("/route", {"prompt": "x"}),
        ]:
            refused = await client.post(path, json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_not_ready")
        assert (await client.get("/v1/models")).status_code == 503


async def test_ready_means_that_base_and_agents_have_generated(engine: FakeEngine) -> None:
    asked: list[str | None] = []
    generate = engine.generate

    def recording(request: Any) -> Any:
        asked.append(request.adapter_id)
        return generate(request)

    engine.generate = recording  # type: ignore[method-assign]
    async with started(engine) as (client, _, _):
        await ready(client)
        health = (await client.get("/health")).json()
        metrics = (await client.get("/metrics")).text
    assert asked == [None, CODE.id, CREATIVE.id]
    assert health["status"] == "ready"
    assert health["adapters"] == [CODE.id, CREATIVE.id]
    assert health["rejected"] == ["big"]
    assert "\nlora_adapters_refused 1.0" in metrics
    assert "\nadaptive_lora_canary_age_seconds 0." in metrics
    assert health["engine"]["loaded_adapters"] == 2


@pytest.mark.parametrize("error", [EngineError("no memory for the KV cache"), RuntimeError("secret")])
async def test_an_engine_that_cannot_start_says_why(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(FakeEngine):
        async def start(self) -> None:
            raise error

    async with started(Broken()) as (client, runtime, failures):
        await until_phase(runtime, "failed")
        health = await client.get("/health")
        not_ready = await client.get("/ready")
        assert (await client.get("/live")).status_code == 200
    reason = "no memory" if isinstance(error, EngineError) else "RuntimeError"
    for response in (health, not_ready):
        assert response.status_code == 503
        assert reason in response.text
        assert "secret" not in response.text
    assert failures == ["failed"]
    assert any("cannot serve" in record.message for record in caplog.records)


async def test_an_adapter_that_the_engine_refuses_keeps_nobody_out() -> None:
    class Picky(FakeEngine):
        async def load(self, adapter: AdapterVersion) -> None:
            if adapter.name == "creative":
                raise WrongModules("it has no such layer")
            await super().load(adapter)

    async with started(Picky()) as (client, _, _):
        await ready(client)
        body = (await client.get("/adapters")).json()
        routed = (await client.post("/generate", json={"prompt": "creative"})).json()
    assert [adapter["name"] for adapter in body["adapters"]] == ["code"]
    assert [(each["folder"], each["code"]) for each in body["rejected"]] == [
        ("big", "rank_too_large"),
        ("creative", "wrong_modules"),
    ]
    assert routed["adapter"] == "base"


async def test_an_adapter_that_changes_while_the_model_loads_is_not_served(tmp_path: Path) -> None:
    shutil.copytree(FLEET, tmp_path / "fleet")

    class Slow(FakeEngine):
        """Before it is ready somebody exchanges a file that has been verified."""

        async def start(self) -> None:
            await until(lambda: seen.is_set())
            (tmp_path / "fleet" / "code" / "adapter_model.safetensors").write_bytes(b"other weights")
            await super().start()

    seen = asyncio.Event()
    async with started(Slow(), sections={"adapters": {"path": tmp_path / "fleet"}}) as (client, runtime, _):
        await until(lambda: "loading the base model" in runtime.detail)
        await until(lambda: runtime._registry is not None)
        seen.set()
        await ready(client)
        assert isinstance(runtime.rejected["code"], HashMismatch)
        assert list(runtime.engine.adapters) == [CREATIVE.id]


async def test_an_adapter_that_does_not_generate_is_not_served(engine: FakeEngine) -> None:
    generate = engine.generate

    def failing(request: Any) -> Any:
        if request.adapter_id == CODE.id:
            raise EngineError("it breaks")
        return generate(request)

    engine.generate = failing  # type: ignore[method-assign]
    async with started(engine) as (client, runtime, _):
        await ready(client)
        assert [adapter["name"] for adapter in (await client.get("/adapters")).json()["adapters"]] == [
            "creative"
        ]
        assert isinstance(runtime.rejected["code"], AdapterError)


async def test_without_adapters_the_base_serves(engine: FakeEngine) -> None:
    async with started(engine, router=None, sections={"adapters": {"path": None}}) as (client, _, _):
        await ready(client)
        body = (await client.post("/generate", json={"prompt": "x"})).json()
        routed = (await client.post("/route", json={"prompt": "x"})).json()
    assert body["adapter"] == "base"
    assert routed["reason"] == "no_candidates"


async def test_a_dead_engine_is_noticed(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "WATCH_INTERVAL_S", 0.01)
    async with started(engine) as (client, runtime, failures):
        await ready(client)
        engine.die()
        await until_phase(runtime, "failed")
        refused = await client.post("/generate", json={"prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_not_ready")
        assert "process is gone" in (await client.get("/health")).json()["detail"]
    assert failures == ["failed"]


async def test_an_engine_that_hangs_is_not_ready_until_it_generates_again(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(engine) as (client, runtime, failures):
        await ready(client)
        monkeypatch.setattr(runtimes, "WATCH_INTERVAL_S", 0.01)
        monkeypatch.setattr(runtimes, "IDLE_BEFORE_CANARY_S", 0.0)
        monkeypatch.setattr(canary, "CANARY_TIMEOUT_S", 0.5)
        runtime._tasks[0].cancel()
        runtime._tasks.append(asyncio.create_task(_watching(runtime)))
        engine._delay_s = 60
        await until_phase(runtime, "stalled")
        assert (await client.get("/ready")).status_code == 503
        assert (await client.get("/health")).json()["status"] == "stalled"
        assert 'adaptive_lora_phase{phase="stalled"} 1.0' in (await client.get("/metrics")).text
        engine._delay_s = 0
        await until_phase(runtime, "ready")
        assert (await client.get("/ready")).status_code == 200
    assert failures == []


async def _watching(runtime: Runtime) -> None:
    while True:
        await asyncio.sleep(runtimes.WATCH_INTERVAL_S)
        await runtime._watch()


async def test_stopping_stops_the_engine(engine: FakeEngine) -> None:
    async with started(engine) as (client, runtime, _):
        await ready(client)
    assert runtime.phase == "stopped"
    assert engine._state == "stopped"


async def test_a_server_waits_for_its_registry(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "REGISTRY_RETRY_S", 0.01)
    open_registry = loading.open_registry
    is_up = asyncio.Event()
    tried = 0

    def opening(settings: Settings) -> Registry:
        nonlocal tried
        tried += 1
        if not is_up.is_set():
            raise RegistryUnavailable("the registry does not answer")
        return open_registry(settings)

    monkeypatch.setattr(loading, "open_registry", opening)
    async with started(engine) as (client, runtime, failures):
        await until(lambda: tried > 2)
        health = await client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "starting")
        assert "\nregistry_up 0.0" in (await client.get("/metrics")).text
        is_up.set()
        await ready(client)
        assert runtime.phase == "ready"
        assert "\nregistry_up 1.0" in (await client.get("/metrics")).text
    assert failures == []


async def test_what_failed_while_callers_were_read_does_not_become_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def watch(self: Fleet) -> None:
        raise EngineError("nobody expected this")

    async def before_ready() -> None:
        await until_phase(runtime, "failed")

    became_ready: list[bool] = []
    monkeypatch.setattr(Fleet, "watch", watch)
    runtime = Runtime(
        settings_of(),
        Metrics(),
        engine=FakeEngine(),
        router=KeywordRouter(),
        before_ready=before_ready,
        on_ready=lambda: became_ready.append(True),
    )
    runtime.start()
    await until(lambda: bool(became_ready))
    await asyncio.sleep(0)
    assert (runtime.phase, runtime.detail) == ("failed", "nobody expected this")
    await runtime.stop()
