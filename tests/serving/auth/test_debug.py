"""Looks into the process: what they answer, one at a time, on record."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest

from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.errors import RegistryUnavailable
from adaptive_lora.serving.admin import create_admin_app
from adaptive_lora.serving.profiling import Profiling
from adaptive_lora.types import DeviceMemory, EngineStats
from tests.serving.auth.conftest import Gateway, OpenGateway
from tests.serving.auth.signing import bearer, token
from tests.serving.conftest import Serve, until

ADMIN = bearer(token(sub="ann", tenant="acme", scope="admin", exp=int(time.time()) + 86_400))
GUIDE = ("gpu_memory_allocated", "gpu_memory_cached", "adapters_loaded", "queue_size")


async def test_the_guides_figures_and_why_some_are_missing(gateway: Gateway) -> None:
    answer = (await gateway.admin.get("/debug/profile", headers=ADMIN)).json()
    assert {name: answer[name] for name in GUIDE} == {
        "gpu_memory_allocated": None,
        "gpu_memory_cached": None,
        "adapters_loaded": 2,
        "queue_size": 0,
    }
    reason = "the fake engine computes on no device"
    assert answer["reasons"] == {"gpu_memory_allocated": reason, "gpu_memory_cached": reason}
    assert answer["devices"] == []
    assert answer["process"]["pid"] == os.getpid()
    assert answer["process"]["rss_bytes"] > 1_000_000


async def test_memory_is_that_of_all_devices(
    open_gateway: OpenGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def device_memory(engine: FakeEngine) -> Sequence[DeviceMemory]:
        return [DeviceMemory(str(i), f"cuda:{i}", 10, 20, 100, 80 - i) for i in range(2)]

    monkeypatch.setattr(FakeEngine, "device_memory", device_memory)
    async with open_gateway() as gateway:
        answer = (await gateway.admin.get("/debug/profile", headers=ADMIN)).json()
    assert (answer["gpu_memory_allocated"], answer["gpu_memory_cached"]) == (20, 40)
    assert answer["reasons"] == {}
    assert answer["devices"][1] == {
        "worker": "1",
        "device": "cuda:1",
        "allocated": 10,
        "reserved": 20,
        "total": 100,
        "free": 79,
    }


async def test_what_waits_in_the_engine_is_counted(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stats(engine: FakeEngine) -> EngineStats:
        return EngineStats(
            running=1, waiting=3, kv_cache_usage=None, gpu_memory_usage=None, loaded_adapters=5
        )

    monkeypatch.setattr(FakeEngine, "stats", stats)
    answer = (await gateway.admin.get("/debug/profile", headers=ADMIN)).json()
    assert (answer["queue_size"], answer["adapters_loaded"]) == (3, 5)


async def test_an_engine_that_is_dead_is_a_reason(gateway: Gateway) -> None:
    gateway.app.state.runtime.engine.die()
    answer = (await gateway.admin.get("/debug/profile", headers=ADMIN)).json()
    assert [answer[name] for name in GUIDE] == [None] * 4
    assert answer["reasons"].keys() == set(GUIDE)


@pytest.fixture
def busy() -> Iterator[str]:
    """A function in which a thread computes all the time, and which only a look interrupts."""
    stop = threading.Event()

    def computes() -> None:
        while not stop.is_set():
            pass

    thread = threading.Thread(target=computes)
    thread.start()
    yield computes.__qualname__
    stop.set()
    thread.join()


async def test_a_cpu_profile_in_both_formats_is_on_record(gateway: Gateway, busy: str) -> None:
    path = "/debug/profile/cpu"
    params: dict[str, Any] = {"seconds": 0.3}
    call = asyncio.create_task(gateway.admin.post(path, params=params, headers=ADMIN))
    served = 0
    while not call.done():
        served += (await gateway.client.get("/live")).status_code == 200
        await asyncio.sleep(0)  # such a client never waits by itself
    assert served
    document = call.result().json()
    assert document["$schema"].startswith("https://www.speedscope.app/")
    names = {frame["name"] for frame in document["shared"]["frames"]}
    assert busy in names
    collapsed = await gateway.admin.post(path, params=params | {"format": "collapsed"}, headers=ADMIN)
    assert collapsed.headers["content-type"].startswith("text/plain")
    (entry, again) = (await gateway.admin.get("/audit", headers=ADMIN)).json()["entries"]
    assert (entry["who"], entry["action"], entry["detail"]) == ("ann", "profile.cpu", {"seconds": 0.3})
    assert entry["subject"] == again["subject"] != ""
    assert gateway.store.audit("acme")[0].action == "profile.cpu"


async def test_memory_by_line_is_on_record(gateway: Gateway) -> None:
    params = {"seconds": 0.1, "lines": 3}
    answer = (await gateway.admin.post("/debug/profile/memory", params=params, headers=ADMIN)).json()
    assert 0 < len(answer["lines"]) <= 3
    assert answer["rss_before"] > 0
    assert answer["seconds"] >= 0.1
    assert not tracemalloc.is_tracing()
    (entry,) = (await gateway.admin.get("/audit", headers=ADMIN)).json()["entries"]
    assert entry["action"] == "profile.memory"


@pytest.mark.parametrize("kind", ["cpu", "memory"])
@pytest.mark.parametrize("seconds", ["0", "61", "-1", "nan", "inf", "x"])
async def test_no_look_is_without_end(gateway: Gateway, kind: str, seconds: str) -> None:
    response = await gateway.admin.post(f"/debug/profile/{kind}?seconds={seconds}", headers=ADMIN)
    assert response.status_code == 422
    assert not (await gateway.admin.get("/audit", headers=ADMIN)).json()["entries"]


async def test_one_at_a_time_and_a_caller_that_goes_away_ends_it(gateway: Gateway) -> None:
    first = asyncio.create_task(gateway.admin.post("/debug/profile/cpu?seconds=60", headers=ADMIN))
    await until(lambda: any(thread.name == "work" for thread in threading.enumerate()))
    for kind in ("cpu", "memory"):
        refused = await gateway.admin.post(f"/debug/profile/{kind}?seconds=1", headers=ADMIN)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert len((await gateway.admin.get("/audit", headers=ADMIN)).json()["entries"]) == 1
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await until(lambda: not any(thread.name == "work" for thread in threading.enumerate()))
    again = await gateway.admin.post("/debug/profile/cpu?seconds=0.01", headers=ADMIN)
    assert again.status_code == 200


async def test_what_cannot_be_put_on_record_is_not_done(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def note(*_: Any, **__: Any) -> None:
        raise RegistryUnavailable("the database is away")

    monkeypatch.setattr(gateway.gate.credentials.store, "note", note)
    response = await gateway.admin.post("/debug/profile/cpu?seconds=0.01", headers=ADMIN)
    assert response.status_code == 503
    monkeypatch.undo()
    response = await gateway.admin.post("/debug/profile/cpu?seconds=0.01", headers=ADMIN)
    assert response.status_code == 200, "the place is free again"


async def test_without_authentication_the_log_is_the_record(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve() as client:
        app = client._transport.app  # type: ignore[attr-defined]
        transport = httpx.ASGITransport(create_admin_app(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as admin:
            with caplog.at_level("INFO", logger="adaptive_lora"):
                response = await admin.post("/debug/profile/cpu?seconds=0.01")
            assert response.status_code == 200
            assert any(record.getMessage().startswith("profile.cpu of ") for record in caplog.records)
            assert (await client.post("/debug/profile/cpu?seconds=0.01")).status_code == 404
            assert (await client.get("/debug/profile")).status_code == 404


async def test_a_profile_that_fails_leaves_its_place() -> None:
    profiling = Profiling()

    async def first() -> None: ...

    def broken(stop: threading.Event) -> None:
        raise ValueError

    for _ in range(2):
        with pytest.raises(ValueError):
            await profiling.run(broken, first=first)
