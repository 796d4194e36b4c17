"""One worker of the pool: how it is talked to, what it is believed to hold, and how much it has to do."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from contextlib import aclosing
from typing import Literal
from weakref import WeakValueDictionary

from adaptive_lora.engine.remote import health, wire
from adaptive_lora.engine.remote.balance import Load
from adaptive_lora.engine.remote.dialects import Dialect, PluginDialect
from adaptive_lora.engine.remote.discovery import Address
from adaptive_lora.engine.remote.stock import StockDialect
from adaptive_lora.engine.remote.transport import Key, Transport, WorkerFailed
from adaptive_lora.errors import AdaptiveLoraError
from adaptive_lora.settings import WorkersSettings
from adaptive_lora.types import AdapterVersion, TokenChunk


class Worker:
    """`loaded` and `pinned` are beliefs: a worker that restarted empty proves them wrong, and they are
    mended."""

    def __init__(self, address: Address, settings: WorkersSettings, key: Key) -> None:
        self.url = address.url
        self.breaker = health.Breaker()
        self.info: wire.WorkerInfo | None = None
        self.stats: wire.WorkerStats | None = None
        self.loaded: set[str] = set()
        self.pinned: set[str] = set()
        self.woken = asyncio.Event()
        """Set when something happened that its watcher should look at now."""
        self.progress_at = time.monotonic()
        """When it last gave a token."""
        self._settings = settings
        self._transport = Transport(address, settings, key)
        self._plugin = PluginDialect(self._transport)
        self.dialect: Dialect = self._plugin
        self._tokens: Counter[str | None] = Counter()
        self._n_requests = 0
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def load(self) -> Load:
        return Load(sum(self._tokens.values()), self._tokens)

    @property
    def n_requests(self) -> int:
        return self._n_requests

    @property
    def kind(self) -> Literal["plugin", "stock"]:
        return "plugin" if self.dialect is self._plugin else "stock"

    async def identify(self) -> wire.WorkerInfo:
        """Ask who it is; another boot id than before means that it holds nothing any more."""
        try:
            dialect: Dialect = self._plugin
            info = await dialect.info()
        except WorkerFailed as failed:
            if failed.error is not None or failed.refused:
                raise
            try:
                dialect = StockDialect(self._transport)
                info = await dialect.info()
            except (AdaptiveLoraError, LookupError, TypeError):
                raise failed from None
        if info != self.info or dialect is not self._plugin:  # a stock worker does not tell that it restarted
            self.forget()
        self.info, self.dialect = info, dialect
        return info

    async def look(self) -> None:
        """Refresh `stats`; notice a restart."""
        if self.kind == "stock":
            return
        self.stats = await self.dialect.stats()
        if self.stats is not None and self.info is not None and self.stats.boot_id != self.info.boot_id:
            await self.identify()

    def forget(self) -> None:
        """It holds nothing."""
        self.loaded.clear()
        self.pinned.clear()

    async def canary(self) -> None:
        """Raises WorkerFailed if it does not generate in time, whatever its reason."""
        request = health.canary(f"canary-{uuid.uuid4().hex}")
        n_tokens = 0
        try:
            async with (
                asyncio.timeout(self._settings.canary_timeout),
                aclosing(self.dialect.generate(request)) as chunks,
            ):
                async for chunk in chunks:
                    n_tokens += chunk.n_tokens
        except TimeoutError:
            raise WorkerFailed("a canary generation did not end in time") from None
        except AdaptiveLoraError as error:
            raise WorkerFailed(f"a canary generation failed: {error.message}", error) from error
        if not n_tokens:
            raise WorkerFailed("a canary generation gave no token")
        self.progress_at = time.monotonic()

    async def ensure(self, adapter: AdapterVersion) -> None:
        """Load the adapter unless it is there. Raises what `Dialect.load` raises."""
        if adapter.id in self.loaded:
            return
        async with self._change(adapter.id):
            if adapter.id not in self.loaded:
                boot = self.info
                await self.dialect.load(adapter)
                if boot is self.info:  # else it restarted meanwhile
                    self.loaded.add(adapter.id)

    async def drop(self, adapter_id: str) -> None:
        """Unload the adapter if it is there, or on its way. Raises WorkerFailed."""
        async with self._change(adapter_id):
            if adapter_id in self.loaded:
                self.loaded.discard(adapter_id)
                self.pinned.discard(adapter_id)
                await self.dialect.unload(adapter_id)

    def _change(self, adapter_id: str) -> asyncio.Lock:
        """One at a time loads or unloads an adapter. The lock lives as long as somebody has it or waits."""
        lock = self._changing.get(adapter_id)
        if lock is None:
            lock = self._changing[adapter_id] = asyncio.Lock()
        return lock

    def failed(self, failure: WorkerFailed) -> None:
        """Tell the breaker, and its watcher if that opened."""
        if failure.blameless:
            return
        self.breaker.failed(at_once=failure.refused)
        if self.breaker.state == "open":
            self.woken.set()

    async def close(self) -> None:
        await self._transport.close()


class Ticket:
    """One request's share of its worker's outstanding tokens: taken when it goes there, paid off as it
    runs."""

    def __init__(self, worker: Worker, adapter_id: str | None, n_tokens: int) -> None:
        self._worker = worker
        self._adapter_id = adapter_id
        self._left = n_tokens
        worker._tokens[adapter_id] += n_tokens
        worker._n_requests += 1

    def progress(self, chunk: TokenChunk, *, is_first: bool) -> None:
        self._worker.progress_at = time.monotonic()
        self._pay(chunk.n_tokens + (chunk.n_prompt_tokens if is_first else 0))

    def close(self) -> None:
        self._pay(self._left)
        self._worker._n_requests -= 1

    def _pay(self, n_tokens: int) -> None:
        paid = min(n_tokens, self._left)
        self._left -= paid
        self._worker._tokens[self._adapter_id] -= paid
        if not self._worker._tokens[self._adapter_id]:
            del self._worker._tokens[self._adapter_id]
