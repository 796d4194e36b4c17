"""VLLMInferenceEngine on a tiny random model: the conformance suite on one engine, then how engines end."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import pytest_asyncio

pytest.importorskip("vllm")

from adaptive_lora.engine.factory import build_engine
from adaptive_lora.engine.vllm import VLLMInferenceEngine
from adaptive_lora.errors import (
    AdapterError,
    EngineDead,
    EngineError,
    EngineNotReady,
    SettingsError,
    Unsupported,
)
from adaptive_lora.settings import AdaptersSettings, InferenceSettings, ModelSettings
from adaptive_lora.types import ChatMessage
from tests.processes import alive, children, command

from .conformance import LONG, PROMPT, SHORT, EngineConformance, complete, request
from .conftest import adapter_version

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def adapters(tiny_adapters):
    return tiny_adapters[:3]


@pytest.fixture(scope="module")
def spare(tiny_adapters):
    return tiny_adapters[3]


@pytest.fixture(scope="module")
def too_large(tiny_adapters):
    return adapter_version(tiny_adapters[4].path, rank=9)


@pytest.fixture
def unstarted(tiny_model):
    return VLLMInferenceEngine(
        model_name=str(tiny_model), tensor_parallel_size=1, gpu_memory_utilization=0.9, dtype="float32"
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scheduled(tiny_model, adapters):
    """Two slots for three adapters, host memory for no more, as it is served: behind an admission queue."""
    engine = build_engine(
        ModelSettings(base_model=str(tiny_model), dtype="float32"),
        AdaptersSettings(max_loras=2, max_cpu_loras=3, max_lora_rank=8),
        InferenceSettings(max_batch_size=8),
    )
    await engine.start()
    for adapter in adapters:
        await engine.load(adapter)
    yield engine
    await engine.stop()


@pytest.fixture(scope="module")
def engine(scheduled):
    """The engine alone: vLLM swaps adapters by itself."""
    return scheduled.inner


async def is_read(engine, adapter):
    arguments = (engine._lora_ids[adapter.id], adapter.id, str(adapter.path))
    while not (await engine._llm.collective_rpc("prefetch_lora", args=arguments))[0]:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@pytest.mark.asyncio(loop_scope="module")
class TestVLLMInferenceEngine(EngineConformance):
    async def test_tokens_arrive_while_the_request_runs(self, engine):
        """True streaming: the first chunk comes long before the last token is there."""
        stream = engine.generate(request(sampling=LONG))
        await anext(stream)
        assert (await engine.stats()).running == 1
        await stream.aclose()

    async def test_a_conversation_without_a_chat_template(self, engine, monkeypatch):
        monkeypatch.setattr(engine._encoder._tokenizer, "chat_template", None)
        one = (ChatMessage("user", "Hello"),)
        assert await complete(engine, one) == await complete(engine, "Hello")
        with pytest.raises(Unsupported, match="no chat template"):
            await complete(engine, (*one, *one))

    async def test_files_that_the_engine_refuses(self, engine, tmp_path):
        (tmp_path / "adapter_config.json").write_text("{}")
        broken = adapter_version(tmp_path)
        with pytest.raises(AdapterError, match=broken.id):
            await engine.load(broken)
        assert broken.id not in engine.adapters
        assert (await complete(engine)).text

    async def test_an_id_stands_for_the_same_weights_for_ever(self, engine, adapters, spare):
        before = engine._lora_ids[adapters[0].id]
        await engine.load(spare)
        number = engine._lora_ids[spare.id]
        await engine.unload(spare.id)
        assert number in {*engine._lora_ids.values()}
        assert engine._lora_ids[adapters[0].id] == before
        assert len(set(engine._lora_ids.values())) == len(engine._lora_ids)

    async def test_unload_frees_the_engines_copy(self, engine, adapters, spare):
        await engine.load(spare)
        number = engine._lora_ids[spare.id]
        assert number in await engine._llm.list_loras()
        await engine.unload(spare.id)
        assert number not in await engine._llm.list_loras()

    async def test_what_was_read_ahead_is_used(self, engine, adapters, spare, tmp_path):
        """Its files are gone by then."""
        path = tmp_path / "ahead"
        shutil.copytree(spare.path, path)
        ahead = adapter_version(path)
        await engine.load(ahead)
        want = await complete(engine, adapter_id=ahead.id)
        for adapter in adapters:
            await complete(engine, adapter_id=adapter.id)
        assert (await engine.residency())[ahead.id] == "disk"
        await engine.prefetch(ahead.id)
        await is_read(engine, ahead)
        shutil.rmtree(path)
        assert await complete(engine, adapter_id=ahead.id) == want
        await engine.unload(ahead.id)

    async def test_reading_ahead_is_a_hint(self, engine, adapters, spare, tmp_path):
        await engine.prefetch("nobody@000000000000")
        await engine.prefetch(adapters[0].id)
        path = tmp_path / "broken"
        shutil.copytree(spare.path, path)
        broken = adapter_version(path)
        await engine.load(broken)
        for adapter in adapters:
            await complete(engine, adapter_id=adapter.id)
        weights = path / "adapter_model.safetensors"
        weights.rename(path / "elsewhere")
        await is_read(engine, broken)
        (path / "elsewhere").rename(weights)
        assert (await complete(engine, adapter_id=broken.id)).text, "a read that failed is tried again"
        await engine.unload(broken.id)

    async def test_nothing_of_vllms_metrics_is_in_our_registry(self, engine):
        from prometheus_client import REGISTRY

        assert not [m.name for m in REGISTRY.collect() if m.name.startswith("vllm")]


@pytest.mark.asyncio(loop_scope="module")
class TestScheduledVLLM(EngineConformance):
    """The same engine behind its admission queue."""

    @pytest.fixture
    def engine(self, scheduled):
        return scheduled

    async def test_more_adapters_than_slots_and_one_pinned(self, engine, adapters):
        """What vLLM alone would die of: the idle pinned adapter's slot is not to be had."""
        await engine.pin(adapters[0].id)
        try:
            ids = [adapters[1].id, adapters[2].id, None] * 8
            assert len(await engine.generate_batch([PROMPT] * len(ids), SHORT, ids)) == len(ids)
            assert (await engine.residency())[adapters[0].id] == "slot"
        finally:
            await engine.unpin(adapters[0].id)

    async def test_zz_the_death_of_the_engine_process(self, engine, adapters):
        """Last of the engine's tests: it does not survive it."""
        stream = engine.generate(request(sampling=LONG))
        await anext(stream)
        waiting = [
            asyncio.create_task(complete(engine, sampling=LONG, adapter_id=a.id)) for a in [*adapters] * 6
        ]
        while not len(engine.queue):  # noqa: ASYNC110 - the test's time limit is the only one
            await asyncio.sleep(0.01)
        core = engine.inner._llm.engine_core.resources.engine_manager.processes[0].pid
        processes = {core} | children(core)
        os.kill(core, signal.SIGKILL)
        with pytest.raises(EngineDead):
            async for _ in stream:
                pass
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, EngineDead)
        for call in (
            complete(engine),
            engine.list(),
            engine.stats(),
            engine.load(next(iter(engine.adapters.values()))),
            engine.residency(),
        ):
            with pytest.raises(EngineDead):
                await call
        await engine.stop()
        with pytest.raises(EngineNotReady):
            await engine.list()
        engines = {pid for pid in processes if "resource_tracker" not in command(pid)}
        while any(alive(pid) for pid in engines):  # noqa: ASYNC110 - the test's time limit is the only one
            await asyncio.sleep(0.05)


async def test_a_model_that_is_not_there():
    with pytest.raises((SettingsError, EngineError), match="no such model"):
        await VLLMInferenceEngine("/no such model").start()


SERVE = """
import asyncio, sys
from adaptive_lora.engine.vllm import VLLMInferenceEngine
async def main():
    engine = VLLMInferenceEngine(sys.argv[1], max_num_seqs=2, max_loras=1, max_cpu_loras=1)
    await engine.start()
    print("ready", flush=True)
    await asyncio.sleep(3600)
if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.acceptance  # test_fleet_story kills a server, whose processes must end as these do
def test_no_process_outlives_a_killed_parent(tiny_model, tmp_path):
    script = tmp_path / "serve.py"
    script.write_text(SERVE)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tiny_model)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent.stdout is not None
        for line in parent.stdout:
            if line.startswith("ready"):
                break
        orphans = children(parent.pid)
        assert len(orphans) >= 2, "the engine core and a worker"
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    while any(alive(pid) for pid in orphans):  # the test's time limit is the only one
        time.sleep(0.05)
