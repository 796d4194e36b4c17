"""Which machines hold a load, and the settings to serve it with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adaptive_lora.errors import SettingsError
from adaptive_lora.sizing.instances import INSTANCES, Instance
from adaptive_lora.sizing.memory import GIB, Load, Memory, adapter_bytes, memory
from adaptive_lora.sizing.models import ModelShape

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What adapters.max_lora_rank may be."""
HOST_BYTES = 10 * GIB
"""An assumption: the server, the engine's processes and the system, in host memory beside the adapters."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A load on a machine."""

    instance: Instance
    tensor_parallel: int
    """GPUs for one copy of the model: the fewest on which it fits, or all that can be used."""
    memory: Memory
    usable: int
    """Bytes of each GPU that vLLM takes: its total times model.gpu_memory_utilization."""
    host_needed: int

    @property
    def n_sequences(self) -> int:
        """Of the load's context, that the KV cache has room for; 0 if the rest does not fit already."""
        return max(0, (self.usable - self.memory.fixed) // self.memory.kv_sequence)

    @property
    def missing(self) -> str | None:
        """What there is not enough of: "gpu", "host"; None if it fits."""
        if self.memory.total > self.usable:
            return "gpu"
        return "host" if self.host_needed > self.instance.host_gib * GIB else None

    @property
    def n_copies(self) -> int:
        """Of the model, each with this load, that the machine's GPUs hold."""
        return self.instance.n_gpus // self.tensor_parallel


def check(load: Load) -> Load:
    """The load, its rank as adapters.max_lora_rank has it. Raises SettingsError for what cannot be served."""
    rank = next((rank for rank in RANKS if rank >= load.rank), None)
    if rank is None:
        raise SettingsError(f"--rank {load.rank}: at most {RANKS[-1]} is served")
    slots = min(load.n_slots, max(load.n_adapters, 1))
    return Load(load.quant, load.n_adapters, rank, slots, load.context, load.concurrency, load.batched_tokens)


def fits(
    shape: ModelShape, load: Load, utilization: float, instances: Sequence[Instance] = INSTANCES
) -> list[Fit]:
    """The load on each machine, smallest machine first: by memory of all GPUs, then their number, then host
    memory."""
    found = [_fit(shape, load, utilization, instance) for instance in instances]
    return sorted(found, key=lambda fit: _size(fit.instance))


def smallest(found: Sequence[Fit]) -> dict[str, Fit]:
    """By cloud, the first that fits."""
    best: dict[str, Fit] = {}
    for fit in found:
        if fit.missing is None:
            best.setdefault(fit.instance.cloud, fit)
    return best


def settings_for(shape: ModelShape, load: Load, fit: Fit, utilization: float) -> dict[str, dict[str, Any]]:
    """The sections that differ from the defaults' because of the plan."""
    model: dict[str, Any] = {
        "base_model": shape.name,
        "max_model_len": load.context,
        "gpu_memory_utilization": utilization,
        "tensor_parallel_size": fit.tensor_parallel,
    }
    if load.quant in ("nf4", "fp8"):
        model["quantization"] = {"nf4": "bitsandbytes", "fp8": "fp8"}[load.quant]
    adapters = {
        "max_loras": load.n_slots,
        "max_cpu_loras": max(load.n_adapters, load.n_slots),
        "max_lora_rank": load.rank,
    }
    return {"model": model, "adapters": adapters, "inference": {"max_batch_size": load.concurrency}}


def _size(instance: Instance) -> tuple[int, int, int]:
    return instance.gpu_bytes * instance.n_gpus, instance.n_gpus, instance.host_gib


def _fit(shape: ModelShape, load: Load, utilization: float, instance: Instance) -> Fit:
    usable = int(instance.gpu_bytes * utilization)
    host = HOST_BYTES + load.n_adapters * adapter_bytes(shape, load.rank)
    for tensor_parallel in _splits(shape, instance.n_gpus):
        fit = Fit(instance, tensor_parallel, memory(shape, load, tensor_parallel), usable, host)
        if fit.memory.total <= usable:
            break
    return fit


def _splits(shape: ModelShape, n_gpus: int) -> list[int]:
    """How many GPUs a layer may be split over: heads divide by it, and KV heads do or it is a multiple of
    them."""
    return [
        size
        for size in (1, 2, 4, 8)
        if size <= n_gpus
        and shape.n_heads % size == 0
        and (shape.n_kv_heads % size == 0 or size % shape.n_kv_heads == 0)
    ]
