"""Latency of one routing decision, prompt by prompt, warm, in process, on one core.

    taskset -c 0 python benchmarks/bench_router.py [--n 1000] [--no-encoder]

`latency_ms` is what a caller waits; `cpu_ms` is the time that the process itself ran, which other programs on
the machine disturb less. Fits a router on the demo fleet's manifests, then routes prompts of 1 to 64 words
made of the examples' own words. The last line is JSON; every figure there is measured in this run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from pathlib import Path

import numpy as np
from _common import commit, hardware

from adaptive_lora.adapters.manifest import read_manifest
from adaptive_lora.router.encoder import load_encoder
from adaptive_lora.router.router import Router

FLEET = Path(__file__).resolve().parent.parent / "demo" / "fleet" / "adapters"
SEED = 0


def percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(values, q)), 3) for q in (50, 90, 99)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1000, help="prompts to time")
    parser.add_argument("--no-encoder", action="store_true", help="n-grams alone")
    parser.add_argument(
        "--max-tokens", type=int, help="tokens that the encoder reads; default: the shipped window"
    )
    args = parser.parse_args()

    manifests = [read_manifest(folder) for folder in sorted(FLEET.iterdir()) if folder.is_dir()]
    examples = {manifest.name: manifest.examples for manifest in manifests}
    encoder = None if args.no_encoder else load_encoder(max_tokens=args.max_tokens)
    start = time.perf_counter()
    router = Router.fit(examples, encoder=encoder)
    fit_s = time.perf_counter() - start

    rng = random.Random(SEED)
    words = [word for texts in examples.values() for text in texts for word in text.split()]
    prompts = [" ".join(rng.choices(words, k=rng.randint(1, 64))) for _ in range(args.n)]
    for prompt in prompts[:50]:
        router.route(prompt)
    latencies_ms, cpu_ms = [], []
    for prompt in prompts:
        start, start_cpu = time.perf_counter(), time.process_time()
        router.route(prompt)
        latencies_ms.append(1000 * (time.perf_counter() - start))
        cpu_ms.append(1000 * (time.process_time() - start_cpu))
    start = time.perf_counter()
    router.score(prompts)
    batched_s = time.perf_counter() - start
    latency, cpu = percentiles(latencies_ms), percentiles(cpu_ms)
    print(f"{args.n} prompts, p50 {latency['p50']:.2f} ms, p99 {latency['p99']:.2f} ms")
    result = {
        "latency_ms": latency,
        "cpu_ms": cpu,
        "throughput_per_s": round(args.n / batched_s, 1),
        "fit_s": round(fit_s, 3),
        "encoder": None if encoder is None else encoder.version,
        "n_prompts": args.n,
        "words_per_prompt": [1, 64],
        "agents": dict(router.report.agents),
        "seed": SEED,
        "load_average": round(os.getloadavg()[0], 2),
        "hardware": hardware(),
        "commit": commit(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
