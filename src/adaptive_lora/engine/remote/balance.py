"""Who answers a request: pure policy. No I/O, no clock; time and loads are arguments.

**Affinity.** Each adapter ranks the workers by a hash of both names (rendezvous hashing, Thaler & Ravishankar
1998). Its first is its home. All gateways agree on that without talking, and when a worker joins or leaves,
only the adapters move that it is the home of.

**Replication.** An adapter has one replica, its home, until it is hot; then its next-ranked worker joins, up
to `max_replicas`. It is hot when its replicas are all overloaded (more outstanding tokens than `OVERLOAD`
times the pool's mean, and at least `BUSY_TOKENS`), and it is a cause of that: its own outstanding tokens per
replica exceed an equal share of the pool's among the adapters that have any. While it is not hot it loses one
replica every `DECAY_S`.

**Load.** Among the replicas the one with the fewest outstanding tokens answers. A request without an adapter
may go to any worker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

OVERLOAD = 1.25
BUSY_TOKENS = 2048
"""Below it a worker has room in its batch: no replication for what is not much."""
DECAY_S = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """What one worker still has to do."""

    tokens: int
    """Outstanding: prompts not yet read, and answers not yet written."""
    by_adapter: Mapping[str | None, int]
    """The same by adapter; None is the base."""


def rank(key: str, workers: Collection[str]) -> list[str]:
    """The workers in `key`'s order of preference."""
    return sorted(workers, key=lambda worker: _score(key, worker), reverse=True)


@lru_cache(maxsize=1 << 16)
def _score(key: str, worker: str) -> bytes:
    return hashlib.blake2b(f"{len(key)}:{key}{worker}".encode(), digest_size=8).digest()


class Balancer:
    """Remembers how many replicas each hot adapter has; all else it is told."""

    def __init__(self, max_replicas: int) -> None:
        self._max_replicas = max_replicas
        self._hot: dict[str, tuple[int, float]] = {}  # adapter -> replicas, and when it last was hot

    def choose(self, request_id: str, adapter_id: str | None, loads: Mapping[str, Load], now: float) -> str:
        """The worker for a request; `loads` are those of the workers that may be asked, at least one."""
        # Without an adapter equals take turns.
        candidates = rank(request_id, loads) if adapter_id is None else self.replicas(adapter_id, loads, now)
        return min(candidates, key=lambda worker: loads[worker].tokens)

    def replicas(self, adapter_id: str, loads: Mapping[str, Load], now: float) -> list[str]:
        """The workers that share the adapter's requests, its home first."""
        n, since = self._hot.get(adapter_id, (1, now))
        n_lost = int((now - since) // DECAY_S)
        if n_lost:
            n, since = max(n - n_lost, 1), since + n_lost * DECAY_S
        ranked = rank(adapter_id, loads)
        if n < min(self._max_replicas, len(ranked)) and _is_hot(adapter_id, ranked[:n], loads):
            n, since = n + 1, now
        if n > 1:
            self._hot[adapter_id] = n, since
        else:
            self._hot.pop(adapter_id, None)
        return ranked[:n]

    def forget(self, adapter_id: str) -> None:
        self._hot.pop(adapter_id, None)


def _is_hot(adapter_id: str, replicas: list[str], loads: Mapping[str, Load]) -> bool:
    total = sum(load.tokens for load in loads.values())
    least = min(loads[worker].tokens for worker in replicas)
    if least < max(BUSY_TOKENS, OVERLOAD * total / len(loads)):
        return False
    active = {adapter for load in loads.values() for adapter, tokens in load.by_adapter.items() if tokens}
    own = sum(loads[worker].by_adapter.get(adapter_id, 0) for worker in replicas)
    return own / len(replicas) >= total / max(len(active), 1)
