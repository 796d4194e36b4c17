"""What vLLM's workers cannot say or do about their adapters: where each of them is, unpinning, reading ahead.

vLLM 0.32 keeps two LRU caches in each worker, one of adapters in host memory and one of slots in the batch's
tensors (`lora/model_manager.py`), pins in both, and has a call for neither question. It reads an
adapter's files in the worker's only thread, between two steps.
"""

from __future__ import annotations

from concurrent.futures import Future
from threading import Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest


class LoRASlots:
    """Part of `worker_extension`; runs between two steps. `lora_id` is a `lora_int_id`.

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

    def prefetch_lora(self, lora_id: int, lora_name: str, lora_path: str) -> bool:
        """Begin to read an adapter's files in a thread, unless it is in host memory or being read.

        Returns whether nothing is left to be read. vLLM takes what has been read when it needs the adapter,
        and waits for the rest of it. What nobody has taken is dropped when others are read: at most as many
        are kept as there are slots.
        """
        from vllm.lora.request import LoRARequest

        manager = self.model_runner.lora_manager
        reads = _reads_ahead(manager)
        if lora_id in manager.list_adapters():
            return True
        if lora_id in reads:
            return reads[lora_id].done()
        while len(reads) >= manager.lora_config.max_loras:
            del reads[next(iter(reads))]
        future = reads[lora_id] = Future[Any]()
        request = LoRARequest(lora_name=lora_name, lora_int_id=lora_id, lora_path=lora_path)
        Thread(target=_read, args=(manager.read_adapter, request, future), daemon=True).start()
        return False


def _reads_ahead(manager: Any) -> dict[int, Future[Any]]:
    """The reads of a worker's LoRA manager, by id; the first call puts them before vLLM's own reading."""
    if not hasattr(manager, "reads_ahead"):
        reads: dict[int, Future[Any]] = {}
        read_adapter = manager._load_adapter

        def load_adapter(request: LoRARequest) -> Any:
            future = reads.pop(request.lora_int_id, None)
            read = None if future is None else future.result()
            return read_adapter(request) if read is None else read

        manager.reads_ahead, manager.read_adapter, manager._load_adapter = reads, read_adapter, load_adapter
    return manager.reads_ahead  # type: ignore[no-any-return]


def _read(read_adapter: Any, request: LoRARequest, future: Future[Any]) -> None:
    try:
        future.set_result(read_adapter(request))
    except Exception:  # who needs the adapter reads it again, and fails by itself
        future.set_result(None)
