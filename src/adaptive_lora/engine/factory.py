"""Settings in, engine out. vLLM is imported only when it is the engine that was asked for."""

from __future__ import annotations

from adaptive_lora.engine.admission import AdmissionQueue
from adaptive_lora.engine.base import Engine
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.engine.scheduled import ScheduledEngine
from adaptive_lora.settings import (
    AdaptersSettings,
    AdmissionSettings,
    InferenceSettings,
    ModelSettings,
    WorkersSettings,
)
from adaptive_lora.telemetry.adapters import AdapterMetrics


def build_engine(
    model: ModelSettings,
    adapters: AdaptersSettings,
    inference: InferenceSettings,
    workers: WorkersSettings | None = None,
    *,
    admission: AdmissionSettings | None = None,
    metrics: AdapterMetrics | None = None,
) -> Engine:
    """An engine, not yet started. `model.base_model` is a folder or an id ('demo' is resolved before).

    One in this process stands behind an admission queue; remote workers have each a queue of their own.
    """
    if model.engine == "remote":
        from adaptive_lora.engine.remote.engine import RemoteEngine

        return RemoteEngine(
            model.base_model, workers or WorkersSettings(), max_lora_rank=adapters.max_lora_rank
        )
    return schedule(
        _build_inner(model, adapters, inference),
        admission or AdmissionSettings(),
        n_slots=adapters.max_loras,
        max_num_seqs=inference.max_batch_size,
        metrics=metrics,
    )


def schedule(
    inner: Engine,
    admission: AdmissionSettings,
    *,
    n_slots: int,
    max_num_seqs: int,
    metrics: AdapterMetrics | None = None,
) -> ScheduledEngine:
    """`inner` behind an admission queue."""
    queue = AdmissionQueue(
        n_slots=n_slots,
        n_places=max_num_seqs + places_ahead(max_num_seqs),
        max_wait_rounds=admission.max_wait_rounds,
        policy=admission.policy,
    )
    return ScheduledEngine(inner, queue, prefetch=admission.prefetch, metrics=metrics)


def places_ahead(max_num_seqs: int) -> int:
    """Requests that stand ready in the engine itself, so that places that become free are filled at once.

    With short answers a large share of the batch ends in one step; what is admitted then comes a step late.
    """
    return max(2, max_num_seqs // 2)


def _build_inner(model: ModelSettings, adapters: AdaptersSettings, inference: InferenceSettings) -> Engine:
    if model.engine == "fake":
        return FakeEngine(
            model.base_model,
            max_model_len=model.max_model_len or 4096,
            max_num_seqs=inference.max_batch_size,
            max_loras=adapters.max_loras,
            max_lora_rank=adapters.max_lora_rank,
        )
    from adaptive_lora.engine.vllm import VLLMInferenceEngine

    return VLLMInferenceEngine(
        model_name=model.base_model,
        tensor_parallel_size=model.tensor_parallel_size,
        gpu_memory_utilization=model.gpu_memory_utilization,
        max_model_len=model.max_model_len,
        max_num_seqs=inference.max_batch_size,
        max_loras=adapters.max_loras,
        max_cpu_loras=adapters.max_cpu_loras,
        max_lora_rank=adapters.max_lora_rank,
        dtype=model.dtype,
        seed=model.seed,
        enforce_eager=model.enforce_eager,
        kv_cache_bytes=model.kv_cache_bytes,
        quantization=model.quantization,
        pipeline_parallel_size=model.pipeline_parallel_size,
        distributed_executor_backend=model.distributed_executor_backend,
    )
