"""More adapters than slots: our admission beside vLLM's own order, on one engine, with the same arrivals.

    python benchmarks/bench_many_adapters.py [--requests 512] [--repeats 3] [--tokens-out 4] ...

An 83 M-parameter Llama with random weights, 64 adapters of rank 16 on all seven linear layers, 8 slots, all
adapters in host memory. Requests arrive at random moments (Poisson) faster than the engine answers them, each
for an adapter drawn uniformly or by Zipf's law with exponent 1. Both orders answer the same arrivals in turn,
on the same engine; which of them begins changes with each repeat, so that a slow minute of the machine meets
both, and ratios are taken within a repeat. Medians are reported, of the longest wait the maximum; the last
line is JSON:

    throughput_ratio      output tokens per second, ours over vLLM's
    p99_ttft_ratio        99th percentile of the time from arrival to first token, ours over vLLM's
    longest_wait_rounds   the most later requests that went before an earlier one; `admission.max_wait_rounds`
                          is its bound
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import add_dtype_option, make_bench_adapters, make_bench_model, make_prompts, print_result

RANK = 16
WARM_UP = 64
"""Requests before the first measurement."""


@dataclass(frozen=True)
class Arrival:
    at_s: float
    prompt: str
    adapter: int
    n_tokens_out: int


@dataclass(frozen=True)
class Measured:
    tokens_per_s: float
    p99_ttft_s: float
    longest_wait_rounds: int = 0


def make_arrivals(args: argparse.Namespace, zipf: bool, seed: int, n: int | None = None) -> list[Arrival]:
    """Answers are as long as `--tokens-out` on average, from a half to one and a half of it."""
    rng = random.Random(seed)
    n = n or args.requests
    weights = [1 / rank if zipf else 1.0 for rank in range(1, args.adapters + 1)]
    adapters = rng.choices(range(args.adapters), weights, k=n)
    prompts = make_prompts(n, args.tokens_in, seed=seed)
    arrivals, at_s = [], 0.0
    for prompt, adapter in zip(prompts, adapters, strict=True):
        at_s += rng.expovariate(args.rate)
        n_tokens = rng.randint((args.tokens_out + 1) // 2, args.tokens_out + args.tokens_out // 2)
        arrivals.append(Arrival(at_s, prompt, adapter, n_tokens))
    return arrivals


async def replay(engine: Any, arrivals: list[Arrival], ids: list[str]) -> Measured:
    """Ask for each request when it arrives; wait for all."""
    from adaptive_lora.types import GenerateRequest, SamplingConfig

    start = time.perf_counter()
    ttfts: list[float] = []

    async def ask(i: int, arrival: Arrival) -> int:
        await asyncio.sleep(arrival.at_s - (time.perf_counter() - start))
        sampling = SamplingConfig(max_tokens=arrival.n_tokens_out, ignore_eos=True)
        request = GenerateRequest(f"r{i}", arrival.prompt, sampling, ids[arrival.adapter])
        arrived, n_tokens = time.perf_counter(), 0
        async for chunk in engine.generate(request):
            if not n_tokens:
                ttfts.append(time.perf_counter() - arrived)
            n_tokens += chunk.n_tokens
        return n_tokens

    n_tokens = sum(await asyncio.gather(*(ask(i, arrival) for i, arrival in enumerate(arrivals))))
    elapsed_s = time.perf_counter() - start
    if n_tokens != sum(arrival.n_tokens_out for arrival in arrivals):
        raise RuntimeError("a request ended early")
    return Measured(n_tokens / elapsed_s, statistics.quantiles(ttfts, n=100)[98])


async def compare(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    from adaptive_lora.engine.factory import build_engine
    from adaptive_lora.settings import AdaptersSettings, AdmissionSettings, InferenceSettings, ModelSettings
    from adaptive_lora.types import AdapterVersion

    make_bench_model(work / "model", seed=args.seed)
    paths = make_bench_adapters(work / "adapters", args.adapters, RANK, base=work / "model", seed=args.seed)
    settings = (
        ModelSettings(
            base_model=str(work / "model"),
            dtype=args.dtype,
            max_model_len=args.tokens_in + 2 * args.tokens_out + 16,
            kv_cache_bytes=1 << 30,
        ),
        AdaptersSettings(
            max_loras=args.slots, max_cpu_loras=max(args.adapters, args.slots), max_lora_rank=RANK
        ),
        InferenceSettings(max_batch_size=args.max_num_seqs),
    )
    admission = AdmissionSettings(max_wait_rounds=args.max_wait_rounds)

    def with_admission(inner: Any) -> Any:
        engine: Any = build_engine(*settings, admission=admission)  # a queue of its own for each measurement
        engine.inner = inner
        return engine

    vllm: Any = build_engine(*settings).inner  # type: ignore[attr-defined]
    await vllm.start()
    versions = [AdapterVersion(p.name, "0" * 12, p, RANK, "", (), 0) for p in paths]
    for version in versions:
        await vllm.load(version)
    ids = [version.id for version in versions]
    await replay(vllm, make_arrivals(args, False, seed=-1, n=WARM_UP), ids)

    async def measure(ours: bool, arrivals: list[Arrival]) -> Measured:
        if not ours:
            return await replay(vllm, arrivals, ids)
        engine = with_admission(vllm)
        await engine.residency()
        measured = await replay(engine, arrivals, ids)
        return Measured(measured.tokens_per_s, measured.p99_ttft_s, engine.queue.longest_wait_rounds)

    result: dict[str, Any] = {}
    for name in ("uniform", "zipf"):
        pairs = []
        for repeat in range(args.repeats):
            arrivals = make_arrivals(args, name == "zipf", seed=args.seed + repeat)
            order = (False, True) if repeat % 2 == 0 else (True, False)
            measured = {ours: await measure(ours, arrivals) for ours in order}
            pairs.append((measured[False], measured[True]))
            print(f"{name}: vLLM's order {pairs[-1][0]}, ours {pairs[-1][1]}", file=sys.stderr, flush=True)
        result[name] = summarise(pairs)
    await vllm.stop()
    return result


def summarise(pairs: list[tuple[Measured, Measured]]) -> dict[str, Any]:
    """Of (vLLM's order, ours)."""

    def median(values: list[float], digits: int) -> float:
        return round(statistics.median(values), digits)

    return {
        "throughput_ratio": median([ours.tokens_per_s / own.tokens_per_s for own, ours in pairs], 3),
        "p99_ttft_ratio": median([ours.p99_ttft_s / own.p99_ttft_s for own, ours in pairs], 3),
        "longest_wait_rounds": max(ours.longest_wait_rounds for _, ours in pairs),
        "tokens_per_s": {
            "vllm": median([own.tokens_per_s for own, _ in pairs], 1),
            "ours": median([ours.tokens_per_s for _, ours in pairs], 1),
        },
        "p99_ttft_s": {
            "vllm": median([own.p99_ttft_s for own, _ in pairs], 2),
            "ours": median([ours.p99_ttft_s for _, ours in pairs], 2),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--adapters", type=int, default=64)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--max-num-seqs", type=int, default=8, help="sequences in a batch")
    parser.add_argument("--tokens-in", type=int, default=32)
    parser.add_argument("--tokens-out", type=int, default=4, help="on average")
    parser.add_argument("--rate", type=float, default=200.0, help="arrivals per second")
    parser.add_argument("--max-wait-rounds", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    add_dtype_option(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(compare(args, Path(folder)))
    shape = ("requests", "repeats", "adapters", "slots", "max_num_seqs", "tokens_in", "tokens_out", "rate")
    result["load"] = {name: getattr(args, name) for name in (*shape, "max_wait_rounds", "dtype")}
    print_result(result, seed=args.seed)


if __name__ == "__main__":
    main()
