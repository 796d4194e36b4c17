"""What vLLM's workers cannot say or do about their adapters: where each of them is, and unpinning.

vLLM 0.32 keeps two LRU caches in each worker, one of adapters in host memory and one of slots in the batch's
tensors (`lora/model_manager.py`), pins in both, and has a call for neither question.
"""

from __future__ import annotations

from typing import Any

WORKER_EXTENSION = f"{__name__}.LoRASlots"
"""For the engine argument `worker_extension_cls`; then `collective_rpc("lora_slots")` and the like work."""


class LoRASlots:
    """Joins vLLM's worker class in every worker; runs between two steps. `lora_id` is a `lora_int_id`.

    All workers of an engine see the same requests in the same order, so that one's answer is everybody's.
    """

    model_runner: Any  # the worker's

    def lora_slots(self) -> tuple[list[int], list[int]]:
        """The ids of the adapters in slots, and of those in host memory, each least recently used first."""
        caches = self.model_runner.lora_manager._adapter_manager
        return [*caches._active_adapters.order], [*caches._registered_adapters.order]

    def unpin_lora(self, lora_id: int) -> bool:
        """Undo `pin_lora`. False if it was not pinned."""
        caches = self.model_runner.lora_manager._adapter_manager
        pinned = [
            cache
            for cache in (caches._registered_adapters, caches._active_adapters)
            if lora_id in cache.pinned_items
        ]
        for cache in pinned:
            cache._unpin(lora_id)
        return bool(pinned)
