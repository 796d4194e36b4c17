"""Answers on their way into a batch's checkpoint: those that wait for a write share the next one."""

from __future__ import annotations

import asyncio

from adaptive_lora.batches.records import Result
from adaptive_lora.serving.batches.desk import Desk


class Checkpoint:
    """Of one batch, as long as `holder` runs it."""

    def __init__(self, desk: Desk, batch_id: str, holder: str) -> None:
        self._desk = desk
        self._batch_id = batch_id
        self._holder = holder
        self._waiting: dict[int, Result] = {}
        self._writing: asyncio.Task[None] | None = None

    async def add(self, result: Result) -> None:
        """Returns when it is there for good. Raises LeaseLost, RegistryUnavailable, StorageFull: then it may
        be added again."""
        self._waiting[result.line] = result
        while result.line in self._waiting:
            await self._write()

    async def settle(self) -> None:
        """Write what callers that were cancelled have left. Raises as `add`."""
        while self._waiting or (self._writing and not self._writing.done()):
            await self._write()

    async def _write(self) -> None:
        """Wait for the write that runs; if none does, write what waits. A caller that is cancelled leaves it
        running: what is written is known to be."""
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_waiting())
        await asyncio.shield(self._writing)

    async def _write_waiting(self) -> None:
        results = tuple(self._waiting.values())
        await self._desk.call(lambda stores: stores.runs.record(self._batch_id, self._holder, results))
        for each in results:
            del self._waiting[each.line]
