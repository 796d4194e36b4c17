"""Where values lie: in this process (`MemoryStore`), or in Redis (`redis_store`)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

ENTRY_BYTES: Final = 256
"""What an entry takes beside its value, for key, tuple and its place in the dictionary: 253 measured on
CPython 3.11."""


class Store(Protocol):
    """Keeps values for a time. Never fails: what cannot be read is absent, what cannot be written is lost."""

    async def get(self, key: bytes) -> bytes | None: ...

    async def set(self, key: bytes, value: bytes) -> bool:
        """Whether it is kept."""
        ...


class MemoryStore:
    """At most `max_bytes` in this process, for `ttl_s` seconds each; the least recently used entries go
    first. `on_evict` is called for each that goes for want of room."""

    def __init__(
        self,
        max_bytes: int,
        ttl_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_evict: Callable[[], None] = lambda: None,
    ) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._on_evict = on_evict
        self._entries: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self.n_bytes = 0

    @property
    def n_entries(self) -> int:
        return len(self._entries)

    def read(self, key: bytes) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires_at, value = entry
        if self._clock() >= expires_at:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return value

    def write(self, key: bytes, value: bytes) -> bool:
        if key in self._entries:
            self._remove(key)
        size = len(value) + ENTRY_BYTES
        if size > self._max_bytes:
            return False
        while self.n_bytes + size > self._max_bytes:
            self._remove(next(iter(self._entries)))
            self._on_evict()
        self._entries[key] = (self._clock() + self._ttl_s, value)
        self.n_bytes += size
        return True

    async def get(self, key: bytes) -> bytes | None:
        return self.read(key)

    async def set(self, key: bytes, value: bytes) -> bool:
        return self.write(key, value)

    def _remove(self, key: bytes) -> None:
        _, value = self._entries.pop(key)
        self.n_bytes -= len(value) + ENTRY_BYTES
