"""For vLLM's own /v1 endpoints: an adapter that is asked for by its id is found and loaded.

Needs VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, without which vLLM asks no resolver. Imports vllm.
"""

from __future__ import annotations

from typing import Any

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

from adaptive_lora.errors import AdaptiveLoraError
from adaptive_lora.worker.endpoints import Find


class Resolver(LoRAResolver):  # type: ignore[misc]
    """vLLM joins names of others onto paths; here `find` decides what is a name at all."""

    def __init__(self, find: Find) -> None:
        self._find = find

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
        try:
            adapter = await self._find(lora_name)
        except AdaptiveLoraError:
            return None
        # vLLM replaces the number by one of its own.
        return LoRARequest(lora_name=adapter.id, lora_int_id=1, lora_path=str(adapter.path))


def install(find: Find, models: Any) -> None:
    """Register it, also with `models` (vLLM's OpenAIServingModels), which reads the registry only once."""
    resolver = Resolver(find)
    LoRAResolverRegistry.register_resolver("adaptive_lora", resolver)
    models.lora_resolvers.append(resolver)
