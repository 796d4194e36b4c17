"""In one batch, base and agents give what each gives alone; and vLLM's own CPU path fails the same test.

Greedy and float32. The order of a sum depends on the shape of a batch, so a token may differ where the two
likeliest differ by less than 1e-4; such near ties are counted and reported, anything else fails.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("vllm")

from adaptive_lora.engine.vllm import VLLMInferenceEngine
from adaptive_lora.types import AdapterVersion, Completion, SamplingConfig

from .conftest import adapter_version

pytestmark = pytest.mark.vllm

NEAR_TIE = 1e-4
NUM_BATCHES = 200
FEW_BATCHES = 40
"""Enough to see what vLLM's own path gets wrong."""


@dataclass(frozen=True)
class Case:
    prompt: str
    adapter_id: str | None
    max_tokens: int


@dataclass
class Report:
    num_requests: int = 0
    near_ties: int = 0
    wrong: list[Case] = field(default_factory=list)


def compare(case: Case, alone: Completion, mixed: Completion, report: Report) -> None:
    report.num_requests += 1
    assert alone.logprobs is not None
    assert mixed.logprobs is not None
    for want, got in zip(alone.logprobs, mixed.logprobs, strict=False):
        if want.token == got.token:
            continue
        (_, first), (_, second) = want.top
        if first - second < NEAR_TIE:
            report.near_ties += 1
        else:
            report.wrong.append(case)
        return
    if alone.text != mixed.text:
        report.wrong.append(case)


async def mixed_batches(
    base: Path, adapters: list[AdapterVersion], prompts: list[str], *, slots: int, batches: int, seed: int = 0
) -> Report:
    """Random batches against every request alone, in one engine without prefix cache."""
    rng = random.Random(seed)
    engine = VLLMInferenceEngine(
        str(base),
        dtype="float32",
        max_model_len=256,
        max_num_seqs=12,
        max_num_batched_tokens=256,  # long prompts are prefilled in pieces, beside rows that decode
        max_loras=slots,
        max_cpu_loras=len(adapters),
        max_lora_rank=max(8, *(a.rank for a in adapters)),
        enable_prefix_caching=False,
    )
    await engine.start()
    try:
        for adapter in adapters:
            await engine.load(adapter)
        agents = [None, *(a.id for a in adapters)]
        pool = [Case(rng.choice(prompts), rng.choice(agents), rng.randint(2, 10)) for _ in range(80)]

        async def run(cases: list[Case]) -> list[Completion]:
            # One call per length: generate_batch has one configuration, the engine one batch for all of them.
            import asyncio

            return [
                completion
                for (completion,) in await asyncio.gather(
                    *(
                        engine.generate_batch(
                            [c.prompt],
                            SamplingConfig(c.max_tokens, logprobs=2, ignore_eos=True),
                            [c.adapter_id],
                        )
                        for c in cases
                    )
                )
            ]

        alone = {case: (await run([case]))[0] for case in pool}
        report = Report()
        for _ in range(batches):
            cases = [rng.choice(pool) for _ in range(rng.randint(2, 12))]
            for case, completion in zip(cases, await run(cases), strict=True):
                compare(case, alone[case], completion, report)
        return report
    finally:
        await engine.stop()


def random_prompts(seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz    .,"
    return ["".join(rng.choices(letters, k=rng.choice([3, 10, 40, 120]))) for _ in range(40)]


@pytest.mark.parametrize(
    ("slots", "batches"),
    [
        pytest.param(3, FEW_BATCHES, id="fewer slots than adapters"),
        pytest.param(3, NUM_BATCHES, id="fewer slots, many batches", marks=pytest.mark.acceptance),
        pytest.param(8, NUM_BATCHES, id="a slot for each adapter", marks=pytest.mark.acceptance),
    ],
)
async def test_each_request_gets_what_it_gets_alone(
    tiny_model, tiny_adapters, slots, batches, monkeypatch, capsys
):
    monkeypatch.setenv("ADAPTIVE_LORA_CPU_LORA", "ours")
    report = await mixed_batches(
        tiny_model, tiny_adapters[:8], random_prompts(), slots=slots, batches=batches
    )
    with capsys.disabled():
        print(f"\n{batches} batches, {report.num_requests} requests: {report.near_ties} near ties")
    assert report.wrong == []
    assert report.near_ties < report.num_requests / 100


@pytest.mark.acceptance
async def test_vllms_own_path_fails_the_same_test(tiny_model, tiny_adapters, monkeypatch):
    monkeypatch.setenv("ADAPTIVE_LORA_CPU_LORA", "stock")
    report = await mixed_batches(
        tiny_model, tiny_adapters[:3], random_prompts(), slots=3, batches=FEW_BATCHES
    )
    assert report.wrong
    assert {case.adapter_id for case in report.wrong} == {None}, "it is the base's rows that go wrong"


@pytest.mark.acceptance
@pytest.mark.parametrize("slots", [4, 2])
async def test_the_demo_fleet(slots, monkeypatch, capsys):
    """The same with trained adapters and their own example prompts. ADAPTIVE_LORA_FLEET names another
    fleet."""
    fleet = Path(os.environ.get("ADAPTIVE_LORA_FLEET", Path(__file__).parents[2] / "demo" / "fleet"))
    if not (fleet / "base").is_dir():
        pytest.skip(f"no fleet in {fleet}; build it with `make demo-fleet`")
    adapters, prompts = [], []
    for folder in sorted((fleet / "adapters").iterdir()):
        config = json.loads((folder / "adapter_config.json").read_text())
        adapters.append(adapter_version(folder, rank=config["r"]))
        prompts += json.loads((folder / "manifest.json").read_text())["examples"]
    monkeypatch.setenv("ADAPTIVE_LORA_CPU_LORA", "ours")
    report = await mixed_batches(fleet / "base", adapters, prompts, slots=slots, batches=NUM_BATCHES)
    with capsys.disabled():
        print(f"\n{NUM_BATCHES} batches, {report.num_requests} requests: {report.near_ties} near ties")
    assert report.wrong == []
