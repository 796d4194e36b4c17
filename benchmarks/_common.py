"""What the benchmarks share: the model and adapters of acceptance, and the last line of JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
from pathlib import Path
from typing import Any

from adaptive_lora.engine.cpu_resources import native_bf16
from adaptive_lora.engine.random_models import make_adapters, make_model, make_prompts

__all__ = [
    "add_dtype_option",
    "free_port",
    "make_bench_adapters",
    "make_bench_model",
    "make_prompts",
    "print_result",
]

BENCH_CONFIG = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 10,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "vocab_size": 8192,
    "max_position_embeddings": 2048,
}
"""83 M parameters, 71 M of them in the seven linear layers that the adapters change."""


def add_dtype_option(parser: argparse.ArgumentParser) -> None:
    """`--dtype`: bf16 where the processor has instructions for it, else float32, as the engine chooses.

    On x86 below AVX-512 vLLM computes bf16 with torch's slow fallback, base and all: the benchmark takes an
    hour there, and its ratios flatter whatever is compared with the base.
    """
    native = "bfloat16" if native_bf16() else "float32"
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default=native, help="weights and activations"
    )


def make_bench_model(folder: Path, *, seed: int = 0) -> Path:
    """A Llama with random weights in bf16; the tokenizer's words are its tokens ("w17" is token 17)."""
    return make_model(folder, BENCH_CONFIG, seed=seed, dtype="bfloat16", tokenizer="words")


def make_bench_adapters(folder: Path, n: int, rank: int = 16, *, base: Path, seed: int = 0) -> list[Path]:
    """`n` PEFT adapters adapter-0, adapter-1, ... with random weights on all seven linear layers."""
    return make_adapters(folder, n, rank, base=base, seed=seed)


def free_port() -> int:
    """On loopback. Somebody else may take it until it is used."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def hardware() -> dict[str, Any]:
    """What the figures depend on."""
    model = platform.processor() or platform.machine()
    flags: set[str] = set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    simd = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "simd": simd,
        "python": platform.python_version(),
    }


def commit() -> str:
    """The checked-out commit, with "+" if the tree has changes; "unknown" outside of a checkout."""
    root = Path(__file__).parent.parent

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", *args], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def print_result(result: dict[str, Any], *, seed: int) -> None:
    """The last line of standard output: figures plus what they depend on, as JSON."""
    print(json.dumps({**result, "commit": commit(), "hardware": hardware(), "seed": seed}), flush=True)
