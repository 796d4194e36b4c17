"""From our parameters to vLLM's engine arguments and environment. Heavy: imports vllm and transformers."""

from __future__ import annotations

import importlib.util
import logging
import os
from dataclasses import dataclass
from typing import Any

from adaptive_lora.engine import cpu_resources
from adaptive_lora.engine.worker_extension import WORKER_EXTENSION
from adaptive_lora.errors import SettingsError

logger = logging.getLogger(__name__)

CORES_ENV = "VLLM_CPU_OMP_THREADS_BIND"
"""vLLM's variable: the cores of each worker, lists separated by |."""


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
    quantization: str | None = None
    pipeline_parallel_size: int = 1
    distributed_executor_backend: str | None = None

    @property
    def n_workers(self) -> int:
        """Processes that share one copy of the model."""
        return self.tensor_parallel_size * self.pipeline_parallel_size


BITSANDBYTES_PLUGIN = "vllm-bnb-plugin==0.0.3"
"""What the extra `gpu` pins: bitsandbytes left vLLM's core in 0.28."""


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
    _check_quantization(options.quantization)
    if options.distributed_executor_backend == "ray" and importlib.util.find_spec("ray") is None:
        raise SettingsError(
            "model.distributed_executor_backend is 'ray', which is not installed: pip install ray"
        )
    arguments: dict[str, Any] = {
        "model": options.model_name,
        "quantization": options.quantization,
        "tensor_parallel_size": options.tensor_parallel_size,
        "pipeline_parallel_size": options.pipeline_parallel_size,
        "distributed_executor_backend": options.distributed_executor_backend,
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
    return arguments | (_for_cpu(options) if current_platform.is_cpu() else _for_gpu(options))


def _check_quantization(name: str | None) -> None:
    """Raises SettingsError for a method that vLLM here does not have. Its plugins are registered by then."""
    if name is None:
        return
    if name == "bitsandbytes" and importlib.util.find_spec("vllm_bnb_plugin") is None:
        raise SettingsError(
            "model.quantization is 'bitsandbytes', which is a plugin of vLLM's now and is not installed: "
            f"`make install ENGINE=gpu` does, or pip install --no-deps {BITSANDBYTES_PLUGIN} bitsandbytes"
        )
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    if name not in QUANTIZATION_METHODS:
        known = ", ".join(sorted(QUANTIZATION_METHODS))
        raise SettingsError(f"model.quantization is {name!r}, which vLLM does not know; it knows {known}")


def _for_gpu(options: VLLMOptions) -> dict[str, Any]:
    """vLLM's own choice of type and KV cache, where the options leave them open."""
    if options.enable_lora and options.dtype == "float32":
        # vLLM 0.32 starts a process, loads the model, and fails at an assertion of its first LoRA kernel
        raise SettingsError(
            "model.dtype must not be float32 on a GPU: vLLM's LoRA kernels there take bfloat16 and float16"
        )
    return {"kv_cache_memory_bytes": options.kv_cache_bytes} if options.kv_cache_bytes is not None else {}


def _for_cpu(options: VLLMOptions) -> dict[str, Any]:
    """Type and KV cache by what this machine has, where the options leave them open. Workers share it."""
    from transformers import AutoConfig

    _check_workers(options)
    config = AutoConfig.from_pretrained(options.model_name, trust_remote_code=False).get_text_config()
    available = cpu_resources.available_memory_bytes()
    weights = cpu_resources.weights_bytes(options.model_name)
    dtype = cpu_resources.best_dtype(options.dtype, weights, available)
    kv_bytes = options.kv_cache_bytes or cpu_resources.kv_cache_bytes(
        available=available // options.n_workers,
        weights=weights // options.n_workers,
        per_token=cpu_resources.kv_bytes_per_token(
            config, dtype, options.tensor_parallel_size, options.pipeline_parallel_size
        ),
        max_model_len=options.max_model_len or getattr(config, "max_position_embeddings", None),
        max_num_seqs=options.max_num_seqs,
    )
    logger.info("CPU: %s, KV cache %d MiB of %d MiB free", dtype, kv_bytes >> 20, available >> 20)
    return {"dtype": dtype, "kv_cache_memory_bytes": kv_bytes}


def _check_workers(options: VLLMOptions) -> None:
    """Raises SettingsError for what vLLM 0.32 starts on a CPU and then fails at, in a process of its own."""
    if options.pipeline_parallel_size > 1 and (options.enable_lora or options.enforce_eager):
        # With LoRA it does not compile, so it does not warm up, which alone makes a stage's receiving buffer.
        raise SettingsError(
            "model.pipeline_parallel_size must be 1 on a CPU: vLLM serves no adapters there with its layers "
            "divided; use model.tensor_parallel_size"
        )
    if options.n_workers == 1 or os.environ.get(CORES_ENV, "auto") != "auto":
        return
    from vllm.utils.cpu_resource_utils import get_visible_memory_node

    n_nodes = len(get_visible_memory_node())
    if n_nodes < options.n_workers:  # vLLM gives each worker a node's cores unless it is told which
        raise SettingsError(
            f"{options.n_workers} workers on a CPU need cores of their own, and this machine has {n_nodes} "
            f"NUMA node(s): set {CORES_ENV} to one list of cores per worker, such as '0-3|4-7'"
        )
