"""What joins vLLM's worker class in every worker: `collective_rpc("device_memory")` and the like work."""

from __future__ import annotations

from adaptive_lora.engine.device_memory import device_memory
from adaptive_lora.engine.lora_slots import LoRASlots

WORKER_EXTENSION = f"{__name__}.WorkerExtension"
"""For the engine argument `worker_extension_cls`."""


class WorkerExtension(LoRASlots):
    def device_memory(self) -> dict[str, dict[str, int]]:
        return device_memory()


def calls() -> dict[str, object]:
    """The extension's methods, for worker classes that are made without it."""
    names = (name for name in dir(WorkerExtension) if not name.startswith("_"))
    return {name: call for name in names if callable(call := getattr(WorkerExtension, name))}
