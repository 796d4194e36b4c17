"""From our parameters to vLLM's engine arguments and environment. Heavy: imports vllm and transformers."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

from adaptive_lora.engine import cpu_resources
from adaptive_lora.engine.lora_slots import WORKER_EXTENSION
from adaptive_lora.errors import SettingsError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VLLMOptions:
    """Everything that `VLLMInferenceEngine` takes; meanings and defaults are documented in `settings`."""

    model_name: str
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    max_model_len: int | None = None
    max_num_seqs: int = 32
    max_loras: int = 8
    max_cpu_loras: int = 64
    max_lora_rank: int = 16
    enable_lora: bool = True
    dtype: str = "auto"
    seed: int = 0
    enforce_eager: bool = False
    enable_prefix_caching: bool = True
    kv_cache_bytes: int | None = None
    max_num_batched_tokens: int | None = None
    """Tokens in one step; vLLM's default if None."""


def prepare_environment() -> None:
    """Quiet and private by default: no usage statistics, warnings only. What the user has set stays."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def engine_arguments(options: VLLMOptions) -> dict[str, Any]:
    """Keyword arguments for `AsyncEngineArgs`. Raises SettingsError or EngineError for what cannot start."""
    from vllm.platforms import current_platform

    if options.max_cpu_loras < options.max_loras:
        raise SettingsError("adapters.max_cpu_loras must be at least adapters.max_loras")
    arguments: dict[str, Any] = {
        "model": options.model_name,
        "tensor_parallel_size": options.tensor_parallel_size,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "max_model_len": options.max_model_len,
        "max_num_seqs": options.max_num_seqs,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "dtype": options.dtype,
        "seed": options.seed,
        "enforce_eager": options.enforce_eager,
        "enable_prefix_caching": options.enable_prefix_caching,
        "trust_remote_code": False,
        "disable_log_stats": False,
        "enable_log_requests": False,
        # Without it a small model may answer a schema with white space until its tokens are used up.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }
    if options.enable_lora:
        arguments |= {
            "enable_lora": True,
            "max_loras": options.max_loras,
            "max_cpu_loras": options.max_cpu_loras,
            "max_lora_rank": options.max_lora_rank,
            "worker_extension_cls": WORKER_EXTENSION,
        }
    if current_platform.is_cpu():
        arguments |= _for_cpu(options)
    elif options.kv_cache_bytes is not None:
        arguments["kv_cache_memory_bytes"] = options.kv_cache_bytes
    return arguments


def _for_cpu(options: VLLMOptions) -> dict[str, Any]:
    """Type and KV cache by what this machine has, where the options leave them open."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(options.model_name, trust_remote_code=False).get_text_config()
    available = cpu_resources.available_memory_bytes()
    weights = cpu_resources.weights_bytes(options.model_name)
    dtype = cpu_resources.best_dtype(options.dtype, weights, available)
    kv_bytes = options.kv_cache_bytes or cpu_resources.kv_cache_bytes(
        available=available,
        weights=weights,
        per_token=cpu_resources.kv_bytes_per_token(config, dtype),
        max_model_len=options.max_model_len or getattr(config, "max_position_embeddings", None),
        max_num_seqs=options.max_num_seqs,
    )
    logger.info("CPU: %s, KV cache %d MiB of %d MiB free", dtype, kv_bytes >> 20, available >> 20)
    return {"dtype": dtype, "kv_cache_memory_bytes": kv_bytes}
