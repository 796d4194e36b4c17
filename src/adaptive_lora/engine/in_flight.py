"""The requests inside an engine, the adapters that they need, and the slots that pins leave to them."""

from __future__ import annotations

import asyncio

from adaptive_lora.errors import Unsupported


class InFlight:
    """Who is in the engine, by request id. Entering waits where the engine itself could not queue safely.

    An engine with `n_slots` slots runs at most that many adapters at once. vLLM queues for that by itself,
    but does not count slots that are pinned to adapters nobody asks for: it would evict an adapter of the
    running batch, and die. So while anything is pinned (or always, if `queues_itself` is false) a request
    enters only if its adapter is pinned, or in use, or if a slot is left. First come, first served, except
    that who fits passes who does not.
    """

    def __init__(self, n_slots: int, *, queues_itself: bool = True) -> None:
        self._n_slots = n_slots
        self._queues_itself = queues_itself
        self._adapters: dict[str, str | None] = {}  # request id -> adapter id; those that wait, too
        self._entered: set[str] = set()
        self._aborted: set[str] = set()
        self._pinned: set[str] = set()
        self._changed = asyncio.Condition()

    def __len__(self) -> int:
        return len(self._adapters)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._adapters

    @property
    def pinned(self) -> frozenset[str]:
        return frozenset(self._pinned)

    @property
    def running(self) -> frozenset[str]:
        """The adapters of the requests that have entered."""
        adapters = (self._adapters[i] for i in self._entered)
        return frozenset(a for a in adapters if a is not None)

    def add(self, request_id: str, adapter_id: str | None) -> None:
        """Register a request. Whoever adds it must remove it."""
        self._adapters[request_id] = adapter_id

    async def enter(self, request_id: str) -> None:
        """Wait until the engine may have the request, or until it is aborted."""
        async with self._changed:
            await self._changed.wait_for(lambda: request_id in self._aborted or self._fits(request_id))
            self._entered.add(request_id)

    async def remove(self, request_id: str) -> None:
        del self._adapters[request_id]
        self._entered.discard(request_id)
        self._aborted.discard(request_id)
        await self._notify()

    async def abort(self, *request_ids: str) -> None:
        """Mark requests; the one who added them sees it in `is_aborted`."""
        self._aborted.update(i for i in request_ids if i in self._adapters)
        await self._notify()

    def is_aborted(self, request_id: str) -> bool:
        return request_id in self._aborted

    async def abort_all(self) -> list[str]:
        """Mark every request. Returns their ids."""
        ids = list(self._adapters)
        await self.abort(*ids)
        return ids

    async def drained(self, adapter_id: str) -> None:
        """Wait until no request needs the adapter."""
        async with self._changed:
            await self._changed.wait_for(lambda: adapter_id not in self._adapters.values())

    async def pin(self, adapter_id: str) -> None:
        """Take a slot away from the other adapters; wait until what runs can do without it.

        Raises Unsupported if none would be left.
        """
        if adapter_id in self._pinned:
            return
        if len(self._pinned) + 1 >= self._n_slots:
            raise Unsupported(
                f"{len(self._pinned)} of {self._n_slots} slots are pinned and one must be left for the other "
                "adapters; unpin one, or raise adapters.max_loras"
            )
        self._pinned.add(adapter_id)  # from now on nobody enters who would need the slot
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: len(self.running - self._pinned) <= self._n_free)
        except BaseException:
            await self.unpin(adapter_id)
            raise

    async def unpin(self, adapter_id: str) -> None:
        self._pinned.discard(adapter_id)
        await self._notify()

    @property
    def _n_free(self) -> int:
        return self._n_slots - len(self._pinned)

    def _fits(self, request_id: str) -> bool:
        adapter_id = self._adapters[request_id]
        if adapter_id is None or adapter_id in self._pinned or (self._queues_itself and not self._pinned):
            return True
        return len((self.running | {adapter_id}) - self._pinned) <= self._n_free

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
