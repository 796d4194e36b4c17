"""What the gateway knows beside a request goes to its workers: the trace. And back: their memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.engine.remote.engine import RemoteEngine
from adaptive_lora.errors import Unsupported
from adaptive_lora.telemetry import tracing
from adaptive_lora.telemetry.tracing import Trace
from adaptive_lora.types import DeviceMemory, GenerateRequest, TokenChunk
from tests.engine.conformance import complete
from tests.engine.remote.fake_worker import FakeWorker, running, settings


class Device(FakeEngine):
    """Computes on a device, and notes the trace of each generation."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.headers: dict[str, dict[str, str]] = {}

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        self.headers[request.request_id] = tracing.outgoing(request.request_id)
        return super().generate(request)

    async def device_memory(self) -> Sequence[DeviceMemory]:
        return [DeviceMemory("0", "cuda:0", allocated=1, reserved=2, total=4, free=1)]


TRACE = Trace("a" * 32, "b" * 16, is_sampled=True, state="vendor=1")


async def test_a_worker_goes_on_with_the_gateways_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.engine.remote.fake_worker.FakeEngine", Device)
    worker = FakeWorker()
    async with running(worker):
        engine = RemoteEngine("fake", settings(worker), max_lora_rank=64)
        await engine.start()
        token = tracing.enter(TRACE)
        await complete(engine)
        tracing.leave(token)
        await complete(engine)
        traced = [h for name, h in worker.engine.headers.items() if not name.startswith("canary")]
        assert traced == [TRACE.headers("x"), {}]
        await engine.stop()


async def test_memory_is_that_of_the_workers_that_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = FakeWorker()
    with monkeypatch.context() as patch:
        patch.setattr("tests.engine.remote.fake_worker.FakeEngine", Device)
        device = FakeWorker()
        await device.start()
    try:
        async with running(plain):
            both = RemoteEngine("fake", settings(plain, device), max_lora_rank=64)
            await both.start()
            while len(both._pool.usable()) < 2:
                await complete(both)
            (memory,) = await both.device_memory()
            assert memory == DeviceMemory(f"{device.url} 0", "cuda:0", 1, 2, 4, 1)
            await both.stop()
            alone = RemoteEngine("fake", settings(plain), max_lora_rank=64)
            await alone.start()
            with pytest.raises(Unsupported, match="the fake engine computes on no device"):
                await alone.device_memory()
            await alone.stop()
    finally:
        await device.kill()
