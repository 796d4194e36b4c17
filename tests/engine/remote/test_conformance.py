"""RemoteEngine conforms, over real HTTP to one worker with our endpoints."""

from __future__ import annotations

import pytest

from adaptive_lora.engine.remote.engine import RemoteEngine
from tests.engine.conformance import EngineConformance
from tests.engine.remote.fake_worker import FakeWorker, adapter, running, settings


@pytest.fixture
def adapters():
    return [adapter("code"), adapter("reasoning"), adapter("writing")]


@pytest.fixture
def spare():
    return adapter("spare")


@pytest.fixture
def too_large():
    return adapter("large", rank=512)


@pytest.fixture
def unstarted():
    return RemoteEngine("fake", settings(urls=["http://127.0.0.1:1"]), max_lora_rank=64)


@pytest.fixture
async def engine(adapters, spare, too_large):
    worker = FakeWorker([*adapters, spare, too_large])
    async with running(worker):
        engine = RemoteEngine(
            "fake", settings(worker, chunk_timeout=30, first_token_timeout=30), max_lora_rank=64
        )
        await engine.start()
        for one in adapters:
            await engine.load(one)
        yield engine
        await engine.stop()


class TestRemoteEngine(EngineConformance):
    pass
