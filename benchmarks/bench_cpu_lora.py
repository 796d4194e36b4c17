"""Throughput of multi-LoRA on a CPU: vLLM without LoRA, with its own LoRA path ("stock") and with ours.

    python benchmarks/bench_cpu_lora.py [--adapters 1 4 8 16] [--stock 1 4 8 16] [--repeats 2] [--dtype ...]

One model of 83 M parameters with random weights, adapters of rank 16 on all seven linear layers,
32 requests of 256 tokens in and 64 out, spread over the adapters in turn. Prefill is measured with one token
out; decode is the time of the whole run less that of the prefill. Every configuration runs in a process of
its own, beside the base's (`enable_lora=False, enforce_eager=True`): the two measure in turn, so that a slow
minute of the machine meets both, and ratios are taken within a turn. The one that does not measure is stopped
(SIGSTOP), for vLLM's workers poll. Medians are reported; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import add_dtype_option, make_bench_adapters, make_bench_model, make_prompts, print_result

Rates = dict[str, float]

NUM_REQUESTS, TOKENS_IN, TOKENS_OUT, RANK = 32, 256, 64, 16


@dataclass(frozen=True)
class Configuration:
    name: str  # base, or what is compared with it: base_compiled, ours, stock
    num_adapters: int  # 0: enable_lora=False


def measure_here(work: Path, configuration: Configuration, dtype: str, seed: int) -> None:
    """The child: start the engine, then measure once per line on standard input, one JSON line per answer."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ["VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"] = "36000"  # it counts while the process is stopped
    os.environ["ADAPTIVE_LORA_CPU_LORA"] = "stock" if configuration.name == "stock" else "ours"
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    n = configuration.num_adapters
    options: dict[str, Any] = {"enforce_eager": configuration.name == "base"}
    if n:
        options |= {"enable_lora": True, "max_loras": n, "max_lora_rank": RANK}
    llm = LLM(
        model=str(work / "model"),
        dtype=dtype,
        max_model_len=TOKENS_IN + TOKENS_OUT,
        max_num_seqs=NUM_REQUESTS,
        kv_cache_memory_bytes=1 << 30,
        enable_prefix_caching=False,
        seed=seed,
        **options,
    )
    requests = [LoRARequest(f"adapter-{i}", i + 1, str(work / f"adapters/adapter-{i}")) for i in range(n)]
    adapters = [requests[i % n] for i in range(NUM_REQUESTS)] if n else None

    def seconds(max_tokens: int, prompts: list[str]) -> float:
        params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
        start = time.perf_counter()
        outputs = llm.generate(prompts, params, lora_request=adapters, use_tqdm=False)
        elapsed = time.perf_counter() - start
        if sum(len(o.outputs[0].token_ids) for o in outputs) != NUM_REQUESTS * max_tokens:
            raise RuntimeError("a request ended early")
        return elapsed

    prompts = make_prompts(NUM_REQUESTS, TOKENS_IN, seed=seed)
    seconds(2, prompts)  # warm-up: loads the adapters, compiles
    print("ready", flush=True)
    for _ in sys.stdin:
        prefill = seconds(1, prompts)
        whole = seconds(TOKENS_OUT, prompts)
        rates = {
            "prefill": NUM_REQUESTS * TOKENS_IN / prefill,
            "decode": NUM_REQUESTS * (TOKENS_OUT - 1) / (whole - prefill),
        }
        print("rates " + json.dumps(rates), flush=True)


class Child:
    """A configuration's process. Paused whenever it is not asked to measure."""

    def __init__(self, work: Path, configuration: Configuration, dtype: str, seed: int) -> None:
        self.configuration = configuration
        child = ["--child", configuration.name, str(configuration.num_adapters)]
        self._process = subprocess.Popen(
            [sys.executable, __file__, *child, "--work", str(work), "--dtype", dtype, "--seed", str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._read("ready")
        os.killpg(self._process.pid, signal.SIGSTOP)

    def measure(self) -> Rates:
        os.killpg(self._process.pid, signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        rates: Rates = json.loads(self._read("rates"))
        os.killpg(self._process.pid, signal.SIGSTOP)
        return rates

    def _read(self, word: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # vLLM prints there too
            if line.startswith(word):
                return line.removeprefix(word)
        raise RuntimeError(f"the process of {self.configuration} ended")

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def summarise(turns: dict[Configuration, list[tuple[Rates, Rates]]]) -> dict[str, Any]:
    """Medians in tokens/s, and of the ratios to the base. A turn is (base, configuration)."""
    result: dict[str, Any] = {}
    for phase in ("prefill", "decode"):
        every_base = [base[phase] for pairs in turns.values() for base, _ in pairs]
        figures: dict[str, Any] = {"base": round(statistics.median(every_base), 1)}
        ratios: dict[str, Any] = {}
        for configuration, pairs in turns.items():
            rate = round(statistics.median(own[phase] for _, own in pairs), 1)
            ratio = round(statistics.median(own[phase] / base[phase] for base, own in pairs), 3)
            name, n = configuration.name, configuration.num_adapters
            if n:
                figures.setdefault(name, {})[str(n)] = rate
                ratios.setdefault(name, {})[str(n)] = ratio
            else:
                figures[name], ratios[name] = rate, ratio
        result[phase] = {**figures, "ratio_to_base": ratios}
    return result


def bench(configurations: list[Configuration], *, repeats: int, dtype: str, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_bench_model(work / "model", seed=seed)
        num_adapters = max(c.num_adapters for c in configurations)
        make_bench_adapters(work / "adapters", num_adapters, RANK, base=work / "model", seed=seed)
        turns: dict[Configuration, list[tuple[Rates, Rates]]] = {}
        base = Child(work, Configuration("base", 0), dtype, seed)
        try:
            for configuration in configurations:
                child = Child(work, configuration, dtype, seed)
                try:
                    turns[configuration] = [(base.measure(), child.measure()) for _ in range(repeats)]
                finally:
                    child.close()
                print(f"{configuration} (base, own): {turns[configuration]}", file=sys.stderr, flush=True)
        finally:
            base.close()
    return {"cpu_lora": {**summarise(turns), "dtype": dtype, "repeats": repeats, "unit": "tokens/s"}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--stock", type=int, nargs="*", help="as --adapters, for vLLM's own path; none skips it"
    )
    add_dtype_option(parser)
    parser.add_argument("--child", nargs=2, metavar=("NAME", "ADAPTERS"), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        configuration = Configuration(args.child[0], int(args.child[1]))
        measure_here(args.work, configuration, args.dtype, args.seed)
        return
    stock = args.adapters if args.stock is None else args.stock
    configurations = [Configuration("base_compiled", 0)]
    configurations += [Configuration("ours", n) for n in args.adapters]
    configurations += [Configuration("stock", n) for n in stock]
    result = bench(configurations, repeats=args.repeats, dtype=args.dtype, seed=args.seed)
    print_result(result, seed=args.seed)


if __name__ == "__main__":
    main()
