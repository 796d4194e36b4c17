"""Gradients of one batch from several threads that take parts of it as they become free.

PyTorch's own threads wait for the slowest at every operation, which on a busy machine is most of the time.
"""

from __future__ import annotations

import copy
import queue
from concurrent.futures import ThreadPoolExecutor

import torch


class Workers:
    """Replicas of a model that share its weights and keep gradients of their own."""

    def __init__(self, model: torch.nn.Module, n_threads: int) -> None:
        self.model = model
        self.replicas = [copy.deepcopy(model) for _ in range(n_threads)]
        for replica in self.replicas:
            for shared, own in zip(model.parameters(), replica.parameters(), strict=True):
                own.data = shared.data
        self.pool = ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,))

    def backward(self, batch: torch.Tensor, n_parts: int) -> float:
        """Accumulate the gradients of the mean loss over `batch` into the model; returns that loss."""
        parts: queue.SimpleQueue[torch.Tensor] = queue.SimpleQueue()
        for part in batch.chunk(n_parts):
            parts.put(part)

        def work(replica: torch.nn.Module) -> float:
            total = 0.0
            while True:
                try:
                    part = parts.get_nowait()
                except queue.Empty:
                    return total
                loss = replica(input_ids=part, labels=part, use_cache=False).loss * (len(part) / len(batch))
                loss.backward()
                total += loss.item()

        losses = list(self.pool.map(work, self.replicas))
        for params in zip(self.model.parameters(), *(r.parameters() for r in self.replicas), strict=True):
            grads = [p.grad for p in params[1:] if p.grad is not None]
            params[0].grad = torch.stack(grads).sum(0) if len(grads) > 1 else grads[0]
            for p in params[1:]:
                p.grad = None
        return sum(losses)
