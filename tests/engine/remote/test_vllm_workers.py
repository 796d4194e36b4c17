"""Real `vllm serve` workers on a tiny random model: one with our plugin, which must do everything, and one
without."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

pytest.importorskip("vllm")

from adaptive_lora.adapters.base import BaseModelInfo, base_fingerprint
from adaptive_lora.adapters.manifest import write_manifest
from adaptive_lora.adapters.verify import verify_adapter
from adaptive_lora.engine.remote.engine import RemoteEngine
from adaptive_lora.engine.remote.health import FAILURES_TO_OPEN
from adaptive_lora.errors import AdapterError, InvalidRequest, Unsupported
from adaptive_lora.settings import WorkersSettings
from adaptive_lora.types import ChatMessage, SamplingConfig
from tests.engine.conformance import BOOLEAN, LONG, PROMPT, SHORT, EngineConformance, complete, request
from tests.engine.remote.vllm_worker import KEY, VLLMWorker
from tests.processes import alive, children

pytestmark = pytest.mark.vllm

BEARER = {"authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def fleet(tiny_model, tiny_adapters, tmp_path_factory):
    """Six adapters with manifests, as a worker verifies them."""
    folder = tmp_path_factory.mktemp("fleet")
    versions = []
    for adapter in tiny_adapters[:6]:
        path = folder / adapter.name
        shutil.copytree(adapter.path, path)
        write_manifest(path, name=path.name, description="x", examples=["x"], base_model=tiny_model.name)
        versions.append(verify_adapter(path, base=BaseModelInfo(tiny_model.name), max_rank=8))
    return versions


@pytest.fixture(scope="module")
def servers(tiny_model, fleet, tmp_path_factory):
    """Both at once: most of their start is waiting."""
    logs = tmp_path_factory.mktemp("logs")
    folder = fleet[0].path.parent
    plugin = VLLMWorker(tiny_model, folder, logs / "plugin.log")
    stock = VLLMWorker(tiny_model, folder, logs / "stock.log", plugin=False)
    try:
        for server in (plugin, stock):
            server.start()
        yield {"plugin": plugin, "stock": stock}
    finally:
        for server in (plugin, stock):
            server.stop()


async def engine_for(server: VLLMWorker, **keys) -> RemoteEngine:
    workers = WorkersSettings(urls=(server.url,), api_key=KEY, start_timeout=600, **keys)
    engine = RemoteEngine("tiny", workers, max_lora_rank=8)
    try:
        await engine.start()
    except BaseException:
        print(server.log)
        await engine.stop()
        raise
    return engine


@pytest.fixture(scope="module")
def adapters(fleet):
    return fleet[:3]


@pytest.fixture(scope="module")
def spare(fleet):
    return fleet[3]


@pytest.fixture(scope="module")
def too_large(fleet):
    return replace(fleet[4], rank=9)


@pytest.fixture
def unstarted():
    return RemoteEngine("tiny", WorkersSettings(urls=("http://127.0.0.1:1",), api_key=KEY), max_lora_rank=8)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(servers, adapters):
    engine = await engine_for(servers["plugin"])
    for adapter in adapters:
        await engine.load(adapter)
    yield engine
    await engine.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stock(servers, adapters):
    engine = await engine_for(servers["stock"])
    for adapter in adapters:
        await engine.load(adapter)
    yield engine
    await engine.stop()


@pytest.mark.asyncio(loop_scope="module")
class TestWithOurPlugin(EngineConformance):
    async def test_it_is_known_by_its_fingerprint(self, engine, tiny_model):
        assert engine.base_fingerprint == base_fingerprint(tiny_model)

    async def test_unload_frees_the_workers_copy(self, engine, servers, spare):
        await engine.load(spare)
        async with httpx.AsyncClient(base_url=servers["plugin"].url, headers=BEARER) as client:
            assert spare.id in [m["id"] for m in (await client.get("/v1/models")).json()["data"]]
            await engine.unload(spare.id)
            assert spare.id not in [m["id"] for m in (await client.get("/v1/models")).json()["data"]]
            assert spare.id not in (await client.get("/adaptive-lora/v1/stats")).json()["residency"]

    async def test_vllms_own_endpoint_finds_an_adapter_by_its_id_and_shares_its_weights(
        self, engine, servers, fleet
    ):
        """Asked for at /v1 first, then by us: the same text, and no second copy."""
        own = fleet[5]
        body = {"model": own.id, "prompt": PROMPT, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
        async with httpx.AsyncClient(base_url=servers["plugin"].url, headers=BEARER, timeout=60) as client:
            answer = (await client.post("/v1/completions", json=body)).json()
            assert answer["model"] == own.id
            await engine.load(own)
            assert (await complete(engine, adapter_id=own.id)).text == answer["choices"][0]["text"]
            for name in ("nobody@0123456789ab", "../fleet", "adapter-0", "", "adapter-0@ffffffffffff"):
                refused = await client.post("/v1/completions", json=body | {"model": name})
                assert refused.status_code == (404 if name else 200), name
        await engine.unload(own.id)

    async def test_no_route_but_the_probes_answers_without_the_key(self, engine, servers):
        async with httpx.AsyncClient(base_url=servers["plugin"].url, timeout=60) as client:
            described = (await client.get("/openapi.json", headers=BEARER)).json()["paths"]
            paths = {*described, "/adaptive-lora/v1/worker", "/v1/models", "/docs", "/nowhere"}
            for path in sorted(paths - {"/health", "/ping", "/metrics"}):
                for method in ("GET", "POST"):
                    assert (await client.request(method, path)).status_code == 401, path
            assert (await client.get("/health")).status_code == 200
            assert "vllm:" in (await client.get("/metrics")).text

    async def test_who_goes_away_before_the_first_token_frees_its_place(self, engine, servers):
        """Eight run, the ninth waits at the worker; its caller leaves."""
        streams = [engine.generate(request(sampling=LONG)) for _ in range(8)]
        for stream in streams:
            await anext(stream)
        ninth = asyncio.create_task(complete(engine, sampling=LONG))
        await asyncio.sleep(0.1)
        ninth.cancel()
        for stream in streams:
            await stream.aclose()
        worker = next(iter(engine._pool.workers.values()))
        async with asyncio.timeout(60):
            while (await worker.dialect.stats()).running + (await worker.dialect.stats()).waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def test_a_schema_that_no_text_fits_is_the_callers_fault(self, engine, stock):
        """vLLM finds that out after it has taken the request. No worker is thought ill for it."""
        for each in (engine, stock):
            for _ in range(FAILURES_TO_OPEN):
                with pytest.raises(InvalidRequest, match="no text fits it"):
                    await complete(each, json_schema={"anyOf": [{"$ref": "#"}]})
            assert [worker.breaker.state for worker in each._pool.workers.values()] == ["closed"]
            assert (await complete(each)).text

    async def test_a_stock_worker_gives_the_same(self, engine, stock, adapters):
        """Two ways through vLLM: text, tokens, reasons, usage and log-probabilities are equal."""
        chat = (ChatMessage("system", "Be brief."), ChatMessage("user", "Hello"))
        whole = (await complete(engine)).text
        samplings = [
            SHORT,
            SamplingConfig(max_tokens=20),
            SamplingConfig(max_tokens=20, temperature=1.0, seed=7, top_k=20, top_p=0.9, min_p=0.01),
            SamplingConfig(max_tokens=20, ignore_eos=True, logprobs=0),
            SamplingConfig(max_tokens=12, ignore_eos=True, stop=(whole[5:8],)),
            SamplingConfig(presence_penalty=1.5, frequency_penalty=0.5, repetition_penalty=1.3, max_tokens=9),
            SamplingConfig(max_tokens=60, json_schema=BOOLEAN),
            SamplingConfig(max_tokens=9999, ignore_eos=True),
        ]
        for prompt in (PROMPT, "naïve, 你好 🎉", chat):
            assert await engine.count_tokens(prompt) == await stock.count_tokens(prompt)
            for adapter_id in (None, adapters[1].id):
                ours = await engine.answer_logprobs(prompt, "yes", adapter_id)
                assert await stock.answer_logprobs(prompt, "yes", adapter_id) == ours
                for sampling in samplings:
                    both = (complete(each, prompt, sampling, adapter_id) for each in (engine, stock))
                    one, other = await asyncio.gather(*both)
                    assert one == other, (prompt, sampling)


@pytest.mark.asyncio(loop_scope="module")
class TestStock(EngineConformance):
    """What needs our plugin is Unsupported; the rest is the same."""

    @pytest.fixture
    def engine(self, stock):
        return stock

    async def test_residency_follows_use(self, engine):
        with pytest.raises(Unsupported, match="our plugin"):
            await engine.residency()

    async def test_a_pinned_adapter_keeps_its_slot_whatever_runs(self, engine, adapters):
        with pytest.raises(Unsupported, match="cannot pin"):
            await engine.pin(adapters[0].id)
        await engine.unpin(adapters[0].id)

    async def test_logprobs(self, engine):
        """Alternatives of one text are one entry there, and this model has many tokens without a text."""
        completion = await complete(engine, logprobs=3)
        assert len(completion.logprobs) == completion.usage.completion_tokens
        assert all(1 <= len(token.top) <= 3 for token in completion.logprobs)

    test_pinning_while_requests_for_every_adapter_run = None
    test_pinning_leaves_a_slot_for_the_others = None
    test_unload_ends_a_pin = None
    test_what_waits_for_a_pinned_slot_can_be_aborted = None

    async def test_files_that_are_not_there(self, engine, spare):
        with pytest.raises(AdapterError):
            await engine.load(replace(spare, path=Path("/no/such/folder")))
        assert spare.id not in engine.adapters

    async def test_an_adapter_that_it_lost_is_loaded_again(self, engine, servers, adapters):
        want = await complete(engine, adapter_id=adapters[0].id)
        async with httpx.AsyncClient(base_url=servers["stock"].url, headers=BEARER) as client:
            gone = await client.post("/v1/unload_lora_adapter", json={"lora_name": adapters[0].id})
            assert gone.status_code == 200
        assert await complete(engine, adapter_id=adapters[0].id) == want


@pytest.mark.acceptance
async def test_a_worker_without_a_key_does_not_start(tiny_model, fleet, tmp_path):
    server = VLLMWorker(tiny_model, fleet[0].path.parent, tmp_path / "log", key="")
    server.start()
    assert await asyncio.to_thread(server.wait) != 0
    assert "a worker must demand an API key" in server.log
    server.stop()


async def test_zz_no_process_outlives_a_killed_worker(servers):
    server = servers["plugin"]
    processes = children(server.pid)
    assert len(processes) >= 2, "the engine core and a worker"
    server.kill()
    async with asyncio.timeout(60):
        while any(alive(pid) for pid in processes):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
