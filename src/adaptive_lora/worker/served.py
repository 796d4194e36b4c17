"""The adapters that vLLM's own endpoints know, and the numbers that its engine knows them by.

Ours and vLLM's endpoints use one engine, whose adapters are numbers: an adapter must have the same one on
both sides, and no two the same. Imports vllm.
"""

from __future__ import annotations

from typing import Any

from vllm.lora.request import LoRARequest

from adaptive_lora.types import AdapterVersion


class Served:
    """`models` is vLLM's OpenAIServingModels."""

    def __init__(self, models: Any) -> None:
        self._models = models
        self._numbers: dict[str, int] = {}

    def number(self, adapter_id: str) -> int:
        """The adapter's number: the one that vLLM gave it, or a new one from vLLM's counter."""
        known = self._models.lora_requests.get(adapter_id)
        if known is not None:
            self._numbers[adapter_id] = known.lora_int_id
        elif adapter_id not in self._numbers:
            self._numbers[adapter_id] = self._models.lora_id_counter.inc(1)
        return self._numbers[adapter_id]

    def add(self, adapter: AdapterVersion) -> None:
        """It was loaded: /v1/models lists it from now on."""
        self._models.lora_requests[adapter.id] = LoRARequest(
            lora_name=adapter.id, lora_int_id=self.number(adapter.id), lora_path=str(adapter.path)
        )

    def remove(self, adapter_id: str) -> None:
        """It is about to be unloaded: /v1 finds it no more."""
        self._models.lora_requests.pop(adapter_id, None)
