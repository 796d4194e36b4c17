"""What a CPU machine can give an engine now; vLLM would take a share of the total and refuse to start."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from adaptive_lora.errors import EngineError

GIB = 1 << 30
BLOCK_TOKENS = 128
"""vLLM's block size on CPUs; every sequence holds whole blocks."""


def available_memory_bytes() -> int:
    """Memory that can be had without swapping: the machine's, or the control group's where that is less."""
    meminfo = Path("/proc/meminfo").read_text().splitlines()
    available = 1024 * next(int(line.split()[1]) for line in meminfo if line.startswith("MemAvailable:"))
    for limit_file, usage_file, stat_file in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        root = Path("/sys/fs/cgroup")
        try:
            limit = (root / limit_file).read_text().strip()
            usage = int((root / usage_file).read_text())
            stat = (root / stat_file).read_text()
        except (OSError, ValueError):
            continue
        if limit.isdigit():
            cached = next((int(s.split()[1]) for s in stat.splitlines() if s.startswith("inactive_file ")), 0)
            available = min(available, int(limit) - usage + cached)
    return max(available, 0)


def weights_bytes(model: str) -> int:
    """Size of the weights of a local model folder; 0 if it is not local, and so not known yet."""
    folder = Path(model)
    return sum(f.stat().st_size for f in folder.glob("*.safetensors")) if folder.is_dir() else 0


def kv_bytes_per_token(
    config: Any, dtype: str, tensor_parallel_size: int = 1, pipeline_parallel_size: int = 1
) -> int | None:
    """Keys and values of one token in a worker's layers and heads, from a transformers config; None for
    unusual architectures."""
    try:
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = max(1, heads // tensor_parallel_size)
        layers = -(-config.num_hidden_layers // pipeline_parallel_size)
    except AttributeError:
        return None
    return int(2 * layers * heads * head_size * (4 if dtype == "float32" else 2))


def kv_cache_bytes(
    *, available: int, weights: int, per_token: int | None, max_model_len: int | None, max_num_seqs: int
) -> int:
    """How much KV cache to ask for: what `max_num_seqs` full sequences need, within half of what is free.

    The other half is for the weights' packed copies, activations, and whatever else runs on the machine.
    Raises EngineError if not even one sequence fits.
    """
    budget = (available - weights) // 2
    if per_token is None or max_model_len is None:
        wanted, least = 4 * GIB, GIB // 4
    else:
        blocks = -(-max_model_len // BLOCK_TOKENS) + 1
        least = blocks * BLOCK_TOKENS * per_token
        wanted = max_num_seqs * least
    if budget < least:
        raise EngineError(
            f"not enough memory: the model needs {(weights + 2 * least) / GIB:.1f} GiB free and there are "
            f"{available / GIB:.1f}; stop other programs, or set model.max_model_len or model.kv_cache_bytes"
        )
    return min(wanted, budget)


@cache
def native_bf16() -> bool:
    """Whether the CPU multiplies bf16 matrices at a useful speed.

    On x86 below AVX-512 oneDNN has no bf16 product: vLLM falls back to torch's, which takes several times as
    long as float32.
    """
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    fields = {key.strip(): value.split() for key, _, value in (line.partition(":") for line in lines)}
    if "flags" in fields:  # x86
        return "avx512f" in fields["flags"]
    return "bf16" in fields.get("Features", ["bf16"])  # Arm; elsewhere vLLM decides


def best_dtype(dtype: str, weights: int, available: int) -> str:
    """What to compute in on this CPU: `dtype` unless it is "auto" and float32 is faster and fits.

    `weights` is the size of the model's files, in bf16 or larger; float32 may double it.
    """
    if dtype == "auto" and not native_bf16() and 2 * weights < available // 2:
        return "float32"
    return dtype
