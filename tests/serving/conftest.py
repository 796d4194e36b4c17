"""Applications on FakeEngine: through ASGI (`serve`) and on a real socket (`listen`)."""

import asyncio
import atexit
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.serving.api import create_app
from adaptive_lora.settings import Settings
from adaptive_lora.types import BASE, AdapterVersion, Probe, RouteDecision, Standing
from tests.adapter_folders import verified, write_adapter
from tests.redis_servers import RedisServer, a_server

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
Listen = Callable[..., AbstractAsyncContextManager[int]]


class KeywordRouter:
    """Chooses the agent that the prompt names; else abstains."""

    def standing(self, agent: str) -> Standing:
        return Standing("routed")

    def with_agent(self, agent: str, examples: Sequence[str], *, description: str = "") -> "KeywordRouter":
        return self

    def without_agent(self, agent: str) -> "KeywordRouter":
        return self

    def route(
        self, prompt: str, candidates: Sequence[str] | None = None, *, explain: bool = False
    ) -> RouteDecision:
        for name in candidates or ():
            if name in prompt:
                explanation = {"word": name} if explain else {}
                return RouteDecision(name, 0.9, "routed", {name: 0.9, "other": 0.1}, explanation=explanation)
        return RouteDecision(BASE, 0.2, "abstained", {})


FLEET = Path(tempfile.mkdtemp(prefix="adaptive-lora-tests-"))
atexit.register(shutil.rmtree, FLEET, ignore_errors=True)
PROBES = tuple(Probe(f"say {i}", f"answer {i}") for i in range(2))


BASE_MODEL = "fake-base"


def agent(name: str, *, seed: int, folder: Path = FLEET, **changes: Any) -> AdapterVersion:
    """An adapter in `folder`, whose example names it."""
    path = write_adapter(
        folder / name, examples=[f"{name} please"], probes=PROBES, base_model=BASE_MODEL, seed=seed, **changes
    )
    return verified(path, base_model=BASE_MODEL)


CODE = agent("code", seed=1)
CREATIVE = agent("creative", seed=2, rank=16)
BIG = agent("big", seed=3, rank=128)
"""More than the engine of these tests takes."""


def settings_of(**sections: dict[str, Any]) -> Settings:
    """The fake engine with CODE and CREATIVE; BIG is refused."""
    model = {"engine": "fake", "base_model": BASE_MODEL, **sections.pop("model", {})}
    adapters = {"path": FLEET, "max_lora_rank": 64, **sections.pop("adapters", {})}
    return Settings.model_validate({"model": model, "adapters": adapters, **sections})


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis of this test's own, empty."""
    yield from a_server()


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def build(engine: FakeEngine) -> Callable[..., FastAPI]:
    def _build(*, engine: FakeEngine = engine, **sections: Any) -> FastAPI:
        return create_app(settings_of(**sections), engine=engine, router=KeywordRouter())

    return _build


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it; a minute is for machines that are busy with something else."""
    async with asyncio.timeout(60):
        for _ in itertools.count():
            if condition():
                return
            await asyncio.sleep(0.01)


async def ready(client: httpx.AsyncClient) -> None:
    for _ in range(1_000):
        if (await client.get("/ready")).status_code == 200:
            return
        await asyncio.sleep(0.01)
    raise AssertionError((await client.get("/health")).text)


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Its client, once it is ready."""
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        await ready(client)
        yield client


@pytest.fixture
def serve(build: Callable[..., FastAPI]) -> Serve:
    return lambda **sections: serving(build(**sections))


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[httpx.AsyncClient]:
    async with serve() as client:
        yield client


@pytest.fixture
def listen(build: Callable[..., FastAPI]) -> Listen:
    """A real uvicorn on a free loopback port, in this event loop. Yields the port."""

    @asynccontextmanager
    async def _listen(**sections: Any) -> AsyncIterator[int]:
        config = uvicorn.Config(
            build(**sections), port=0, log_config=None, access_log=False, timeout_graceful_shutdown=5
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        await until(lambda: server.started or task.done())
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                await ready(client)
            yield port
        finally:
            server.should_exit = True
            await task

    return _listen
