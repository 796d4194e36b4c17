"""One copy of the model on two workers: the same tokens as on one, and no process left.

On a CPU with one NUMA node vLLM must be told each worker's cores (VLLM_CPU_OMP_THREADS_BIND). Layers divided
among workers (pipeline) run on a CPU only without adapters.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("vllm")

from adaptive_lora.engine.vllm import VLLMInferenceEngine
from adaptive_lora.engine.vllm_args import BITSANDBYTES_PLUGIN, CORES_ENV, VLLMOptions, engine_arguments
from adaptive_lora.errors import SettingsError
from adaptive_lora.types import AdapterVersion, Completion, SamplingConfig
from tests.processes import alive, children, command

from .test_mixed_batches import Case, Report, compare

pytestmark = [pytest.mark.vllm, pytest.mark.acceptance]

PROMPTS = ["Hello", "What is 17 plus 25?", "a b c d e f g", "0123456789 0123456789"]
GREEDY = SamplingConfig(max_tokens=24, ignore_eos=True, logprobs=2)
TWO_CORES = "0|1" if (os.cpu_count() or 1) > 1 else "0|0"


async def answers(
    model: Path, adapters: list[AdapterVersion], **options: int | bool
) -> dict[Case, Completion]:
    """What the base and each adapter say, all in one batch; and no process of the engine's is left."""
    before = children(os.getpid())
    slots = {"max_loras": 2, "max_cpu_loras": 2, "max_lora_rank": 8}
    engine = VLLMInferenceEngine(str(model), dtype="float32", kv_cache_bytes=1 << 26, **slots, **options)
    await engine.start()
    try:
        workers = children(os.getpid()) - before
        for adapter in adapters:
            await engine.load(adapter)
        cases = [Case(prompt, id, 24) for prompt in PROMPTS for id in (None, *(a.id for a in adapters))]
        said = await engine.generate_batch([c.prompt for c in cases], GREEDY, [c.adapter_id for c in cases])
    finally:
        await engine.stop()
    ours = {pid for pid in workers if "resource_tracker" not in command(pid)}
    while any(alive(pid) for pid in ours):  # noqa: ASYNC110 - the test's time limit is the only one
        await asyncio.sleep(0.05)
    return dict(zip(cases, said, strict=True))


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tiny_adapters: list[AdapterVersion]) -> dict[Case, Completion]:
    return asyncio.run(answers(tiny_model, tiny_adapters[:2]))


def assert_same(halves: dict[Case, Completion], whole: dict[Case, Completion]) -> None:
    report = Report()
    for case, completion in halves.items():
        compare(case, whole[case], completion, report)
    assert report.wrong == []
    assert report.near_ties <= 1


async def test_tensors_split_in_two_give_the_same_tokens(
    tiny_model: Path,
    tiny_adapters: list[AdapterVersion],
    whole: dict[Case, Completion],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(CORES_ENV, TWO_CORES)
    assert len({completion.text for completion in whole.values()}) == 12, "agents and prompts differ"
    halves = await answers(tiny_model, tiny_adapters[:2], tensor_parallel_size=2)
    assert len(halves) == 12
    assert_same(halves, whole)


async def test_layers_in_two_groups_give_the_bases_tokens(
    tiny_model: Path, whole: dict[Case, Completion], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CORES_ENV, TWO_CORES)
    halves = await answers(tiny_model, [], pipeline_parallel_size=2, enable_lora=False)
    assert len(halves) == 4
    assert_same(halves, whole)


SERVE = """
import asyncio, sys
from adaptive_lora.engine.vllm import VLLMInferenceEngine
async def main():
    engine = VLLMInferenceEngine(sys.argv[1], tensor_parallel_size=2, max_loras=1, max_cpu_loras=1)
    await engine.start()
    print("ready", flush=True)
    await asyncio.sleep(3600)
if __name__ == "__main__":
    asyncio.run(main())
"""


def test_no_worker_outlives_a_killed_parent(tiny_model: Path, tmp_path: Path) -> None:
    script = tmp_path / "serve.py"
    script.write_text(SERVE)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tiny_model)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {CORES_ENV: TWO_CORES},
    )
    try:
        assert parent.stdout is not None
        assert any(line.startswith("ready") for line in parent.stdout)
        orphans = children(parent.pid)
        assert len(orphans) >= 3, "the engine core and two workers"
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    while any(alive(pid) for pid in orphans):  # the test's time limit is the only one
        time.sleep(0.05)


def test_what_a_cpu_cannot_split_is_refused_before_it_starts(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.utils import cpu_resource_utils

    monkeypatch.delenv(CORES_ENV, raising=False)
    monkeypatch.setattr(cpu_resource_utils, "get_visible_memory_node", lambda: [0])
    with pytest.raises(SettingsError, match=r"1 NUMA node.*0-3\|4-7"):
        engine_arguments(VLLMOptions(str(tiny_model), tensor_parallel_size=2))
    with pytest.raises(SettingsError, match="tensor_parallel_size"):
        engine_arguments(VLLMOptions(str(tiny_model), pipeline_parallel_size=2))
    if importlib.util.find_spec("ray") is None:
        with pytest.raises(SettingsError, match="pip install ray"):
            engine_arguments(VLLMOptions(str(tiny_model), distributed_executor_backend="ray"))


def test_unknown_methods_of_quantisation_are_refused_before_it_starts(tiny_model: Path) -> None:
    with pytest.raises(SettingsError, match=r"'int3'.*compressed-tensors"):
        engine_arguments(VLLMOptions(str(tiny_model), quantization="int3"))
    if importlib.util.find_spec("vllm_bnb_plugin") is None:
        with pytest.raises(SettingsError, match="vllm-bnb-plugin"):
            engine_arguments(VLLMOptions(str(tiny_model), quantization="bitsandbytes"))


def test_the_plugin_that_an_error_names_is_the_one_that_is_pinned() -> None:
    pinned = (Path(__file__).parents[2] / "requirements" / "gpu.txt").read_text()
    assert f"\n{BITSANDBYTES_PLUGIN} " in pinned
