"""Snapshots of vLLM's scheduler and of the accelerator's memory. Imports vllm when called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class SchedulerSnapshot:
    """The last step's figures, written by vLLM's output loop."""

    running: int = 0
    kv_cache_usage: float = 0.0
    n_preemptions: int = 0


class PublishedSnapshot:
    """The same figures of an engine that somebody else has started, from the metrics that vLLM publishes in
    this process. Zeros with --disable-log-stats."""

    @property
    def running(self) -> int:
        return int(_published("vllm:num_requests_running"))

    @property
    def kv_cache_usage(self) -> float:
        return _published("vllm:kv_cache_usage_perc")

    @property
    def n_preemptions(self) -> int:
        return int(_published("vllm:num_preemptions_total"))


def _published(name: str) -> float:
    from prometheus_client import REGISTRY

    metrics = REGISTRY.restricted_registry([name]).collect()
    return sum(sample.value for metric in metrics for sample in metric.samples if sample.name == name)


def capture_into(snapshot: SchedulerSnapshot) -> Any:
    """A stat logger class for `AsyncLLM(stat_loggers=[...])` that keeps the last figures and nothing else.

    It derives from vLLM's Prometheus logger because vLLM adds that one unless it is given one: its metrics
    would stand in our process's registry under vLLM's names and cost time in every step.
    """
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    class Capture(PrometheusStatLogger):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            """Registers nothing."""

        def record(
            self, scheduler_stats: Any, iteration_stats: Any = None, *args: Any, **kwargs: Any
        ) -> None:
            if scheduler_stats is not None:
                snapshot.running = scheduler_stats.num_running_reqs
                snapshot.kv_cache_usage = scheduler_stats.kv_cache_usage
            if iteration_stats is not None:
                snapshot.n_preemptions += iteration_stats.num_preempted_reqs

        def log(self) -> None: ...

        def log_engine_initialized(self) -> None: ...

        def record_sleep_state(self, *args: Any, **kwargs: Any) -> None: ...

        def record_admission_rejection(self, *args: Any, **kwargs: Any) -> None: ...

    return Capture


def gpu_memory_usage(num_devices: int) -> float | None:
    """Share of the memory in use on the first `num_devices` NVIDIA devices here, 0..1; None elsewhere.

    Asks the driver: the engine is another process, whose memory torch's counters here do not see.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        return None
    from vllm.third_party import pynvml

    pynvml.nvmlInit()
    try:
        used = total = 0
        for device in range(min(num_devices, current_platform.device_count())):  # the others: other nodes
            index = current_platform.device_id_to_physical_device_id(device)
            memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index))
            used, total = used + memory.used, total + memory.total
        return used / total
    finally:
        pynvml.nvmlShutdown()
