"""Memory of the accelerator, as the process that computes on it sees it. Needs torch, and no vLLM."""

from __future__ import annotations


def device_memory() -> dict[str, dict[str, int]]:
    """Of the device that this process computes on, {"cuda:0": {"allocated": .., "reserved": .., "total": ..,
    "free": ..}} in bytes; {} where there is none.

    `allocated` by tensors of this process, `reserved` by its allocator (tensors included), `free` on the
    device, whoever uses the rest. Only that one device is asked: asking another would create a context there,
    some hundreds of MB.
    """
    import torch

    if not torch.cuda.is_available():
        return {}
    device = torch.cuda.current_device()
    free, total = torch.cuda.mem_get_info(device)
    return {
        f"cuda:{device}": {
            "allocated": torch.cuda.memory_allocated(device),
            "reserved": torch.cuda.memory_reserved(device),
            "total": total,
            "free": free,
        }
    }
