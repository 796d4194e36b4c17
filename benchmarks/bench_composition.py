"""What a composition costs: to build, and to serve beside a plain adapter of its rank.

    python benchmarks/bench_composition.py [--adapters 1 4] [--repeats 8] [--dtype ...] [--no-build]

Serving: the 83 M-parameter model, one vLLM engine with our CPU path, slots of rank 32. Compositions of two
rank-16 adapters and plain adapters of rank 32; 32 requests of 256 tokens in and 32 out, spread over 1 or 4 of
either in turn. Prefill is measured with one token out, then the whole. Both kinds are measured alternately;
the best times of each are compared, since other work on the machine only ever adds to them, and the medians
of the CPU seconds of the engine's processes.

Building: two rank-16 adapters in bf16 with the shapes of an 8 B Llama on all seven linear layers, 42 M
parameters each: by concatenation, and reduced to rank 16. TIES works on dense matrices: it is measured on one
of the 32 layers. CPU seconds are those of the process. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _common import add_dtype_option, make_bench_adapters, make_bench_model, make_prompts, print_result

from adaptive_lora.adapters.base import BaseModelInfo
from adaptive_lora.adapters.compose import Method, compose
from adaptive_lora.adapters.manifest import write_manifest
from adaptive_lora.adapters.safetensors_io import write_tensors
from adaptive_lora.adapters.verify import verify_adapter
from adaptive_lora.types import AdapterVersion

NUM_REQUESTS, TOKENS_IN, TOKENS_OUT, PART_RANK, RANK = 32, 256, 32, 16, 32
BASE = "bench"

LARGE_SHAPES = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (1024, 4096),
    "self_attn.v_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096),
    "mlp.up_proj": (14336, 4096),
    "mlp.down_proj": (4096, 14336),
}
"""(out, in) in each of the 32 layers of Llama 3.1 8B."""


def verified(path: Path) -> AdapterVersion:
    write_manifest(path, name=path.name, description="random", examples=["x"], base_model=BASE)
    return verify_adapter(path, base=BaseModelInfo(BASE), max_rank=RANK)


def make_large_adapter(path: Path, n_layers: int, *, seed: int) -> AdapterVersion:
    """Random bfloat16 weights of rank 16."""
    random = np.random.default_rng(seed)
    declared: dict[str, tuple[str, tuple[int, ...]]] = {}
    for layer in range(n_layers):
        for module, (n_out, n_in) in LARGE_SHAPES.items():
            key = f"base_model.model.model.layers.{layer}.{module}"
            declared[f"{key}.lora_A.weight"] = ("BF16", (PART_RANK, n_in))
            declared[f"{key}.lora_B.weight"] = ("BF16", (n_out, PART_RANK))
    path.mkdir(parents=True)
    with write_tensors(path / "adapter_model.safetensors", declared) as writer:
        for name, (_, shape) in declared.items():
            upper_halves = random.standard_normal(shape, np.float32).view(np.uint32) >> 16
            writer.write(name, upper_halves.astype("<u2").tobytes())
    config = {"peft_type": "LORA", "r": PART_RANK, "lora_alpha": 32, "target_modules": list(LARGE_SHAPES)}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return verified(path)


def bench_build(work: Path, *, repeats: int, seed: int) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    cases: list[tuple[str, int, Method, int]] = [
        ("concatenated", 32, "cat", RANK),
        ("reduced_to_16", 32, "cat", PART_RANK),
        ("ties_one_layer", 1, "ties", RANK),
    ]
    made = {
        n: [make_large_adapter(work / f"large-{n}-{i}", n, seed=seed + i) for i in range(2)] for n in (32, 1)
    }
    for name, n_layers, method, rank in cases:
        parts = list(zip(made[n_layers], (0.7, 0.3), strict=True))
        wall, cpu = [], []
        for repeat in range(repeats):
            wall_before, cpu_before = time.perf_counter(), time.process_time()
            composed = compose(parts, work / f"{name}-{repeat}", max_rank=rank, method=method)
            wall.append(time.perf_counter() - wall_before)
            cpu.append(time.process_time() - cpu_before)
        figures[name] = {
            "seconds": round(statistics.median(wall), 2),
            "cpu_seconds": round(statistics.median(cpu), 2),
            "megabytes": round(composed.version.size_bytes / 1e6, 1),
            "relative_error": composed.relative_error,
        }
        print(f"{name}: {figures[name]}", file=sys.stderr, flush=True)
    return figures


@dataclass(frozen=True)
class Cost:
    """Of one run; CPU seconds are those of the engine's processes."""

    seconds: float
    cpu_seconds: float


class Server:
    """One vLLM engine, and the adapters that it serves."""

    def __init__(self, model: Path, n_adapters: int, dtype: str, seed: int) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        from vllm import LLM

        self._llm = LLM(
            model=str(model),
            dtype=dtype,
            max_model_len=2 * (TOKENS_IN + TOKENS_OUT),  # vLLM also bounds the characters
            max_num_seqs=NUM_REQUESTS,
            kv_cache_memory_bytes=1 << 30,
            enable_prefix_caching=False,
            enable_lora=True,
            max_loras=n_adapters,
            max_cpu_loras=4 * n_adapters,
            max_lora_rank=RANK,
            seed=seed,
        )
        self._prompts = make_prompts(NUM_REQUESTS, TOKENS_IN, seed=seed)
        self._ids: dict[Path, int] = {}

    def measure(self, adapters: Sequence[Path]) -> tuple[Cost, Cost]:
        """Of the prompts alone, and of the whole answers, with these adapters in their slots."""
        self._run(adapters, 1)  # brings them there
        return self._run(adapters, 1), self._run(adapters, TOKENS_OUT)

    def _run(self, adapters: Sequence[Path], max_tokens: int) -> Cost:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        requests = [
            LoRARequest(path.name, self._ids.setdefault(path, len(self._ids) + 1), str(path))
            for path in adapters
        ]
        parameters = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
        cpu_before, before = self._cpu_seconds(), time.perf_counter()
        outputs = self._llm.generate(
            self._prompts,
            parameters,
            lora_request=[requests[i % len(requests)] for i in range(NUM_REQUESTS)],
            use_tqdm=False,
        )
        cost = Cost(time.perf_counter() - before, self._cpu_seconds() - cpu_before)
        if sum(len(output.outputs[0].token_ids) for output in outputs) != NUM_REQUESTS * max_tokens:
            raise RuntimeError("a request ended early")
        return cost

    def close(self) -> None:
        """End the engine's processes; Python's own end would wait for them for ever."""
        self._llm.llm_engine.engine_core.shutdown(timeout=20)

    @staticmethod
    def _cpu_seconds() -> float:
        """Of the engine's processes so far."""
        times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
        return sum(each.user + each.system for each in times)


def summarise(turns: Sequence[Mapping[str, tuple[Cost, Cost]]]) -> dict[str, Any]:
    """Tokens a second of each kind at its best; and how much more the plain one costs, in seconds (of the
    best) and in CPU seconds (median)."""
    figures: dict[str, Any] = {}
    for i, (phase, n_tokens) in enumerate((("prefill", TOKENS_IN), ("whole", TOKENS_IN + TOKENS_OUT))):
        plain, composed = ([turn[kind][i] for turn in turns] for kind in ("plain", "composed"))
        best = [min(cost.seconds for cost in costs) for costs in (plain, composed)]
        cpu = [statistics.median(cost.cpu_seconds for cost in costs) for costs in (plain, composed)]
        figures[phase] = {
            "plain": round(NUM_REQUESTS * n_tokens / best[0], 1),
            "composed": round(NUM_REQUESTS * n_tokens / best[1], 1),
            "ratio": round(best[0] / best[1], 3),
            "cpu_ratio": round(cpu[0] / cpu[1], 3),
        }
    return figures


def bench_serving(
    work: Path, counts: Sequence[int], *, repeats: int, dtype: str, seed: int
) -> dict[str, Any]:
    model = make_bench_model(work / "model", seed=seed)
    n = max(counts)
    plain = make_bench_adapters(work / "plain", n, RANK, base=model, seed=seed)
    parts = [
        verified(path)
        for path in make_bench_adapters(work / "parts", n + 1, PART_RANK, base=model, seed=seed)
    ]
    composed = [
        compose([(parts[i], 0.7), (parts[i + 1], 0.3)], work / f"sum-{i}", max_rank=RANK).version.path
        for i in range(n)
    ]
    server = Server(model, n, dtype, seed)
    figures: dict[str, Any] = {}
    try:
        for count in counts:
            kinds = {"plain": plain[:count], "composed": composed[:count]}
            turns = []
            for repeat in range(repeats):
                order = list(kinds)[:: 1 if repeat % 2 == 0 else -1]
                turns.append({kind: server.measure(kinds[kind]) for kind in order})
                print(f"{count} adapters: {turns[-1]}", file=sys.stderr, flush=True)
            figures[str(count)] = summarise(turns)
    finally:
        server.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-build", action="store_true", help="measure serving alone")
    add_dtype_option(parser)
    args = parser.parse_args()
    result: dict[str, Any] = {"dtype": args.dtype, "repeats": args.repeats, "unit": "tokens/s"}
    with tempfile.TemporaryDirectory() as folder:
        if not args.no_build:
            result["build"] = bench_build(Path(folder), repeats=3, seed=args.seed)
        serving = bench_serving(
            Path(folder), args.adapters, repeats=args.repeats, dtype=args.dtype, seed=args.seed
        )
    print_result({"composition": {**result, "serving": serving}}, seed=args.seed)


if __name__ == "__main__":
    main()
