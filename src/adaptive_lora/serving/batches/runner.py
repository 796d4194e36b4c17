"""Which batches this gateway runs: one of each tenant at a time, the oldest that nobody else runs.

It looks for one every POLL_S, and at once when one was asked for here. While it is not ready it takes no new
ones. Once it is known that the process will end, it lets go of those that it runs: what remains of its time
is for callers who wait, and another gateway can go on at once.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Final

from adaptive_lora.batches.records import Batch
from adaptive_lora.batches.stores import Stores
from adaptive_lora.errors import AdaptiveLoraError
from adaptive_lora.serving.auth.gate import Gate
from adaptive_lora.serving.batches.desk import Desk, sweep
from adaptive_lora.serving.batches.run import Run, new_holder
from adaptive_lora.serving.runtime import Runtime

_log = logging.getLogger(__name__)

POLL_S: Final = 2.0
SWEEP_EVERY_S: Final = 600.0
MAX_RUNS: Final = 8
"""Batches at once. They share `batches.max_in_flight`, and each keeps as many requests in memory."""


class Runner:
    """Starts with the application's event loop, and ends before the engine does."""

    def __init__(self, desk: Desk, runtime: Runtime, gate: Gate | None) -> None:
        self._desk = desk
        self._runtime = runtime
        self._gate = gate
        self._places = asyncio.Semaphore(desk.settings.batches.max_in_flight)
        self._runs: dict[Run, asyncio.Task[None]] = {}
        self._look_now = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._main()), asyncio.create_task(self._leave())]

    async def stop(self) -> None:
        """Batches that run are let go of, and go on where they are next run."""
        tasks = [*self._tasks, *self._runs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._desk.close()

    def look(self, batch_id: str | None = None) -> None:
        """There may be something to do; with `batch_id`, for that batch if it runs here."""
        self._look_now.set()
        for run in self._runs:
            if run.batch_id == batch_id:
                run.look()

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        swept_at = loop.time() - SWEEP_EVERY_S
        while True:
            self._look_now.clear()
            if self._runtime.phase in ("ready", "stalled"):
                try:
                    if loop.time() - swept_at >= SWEEP_EVERY_S:
                        swept_at = loop.time()
                        await self._sweep()
                    if self._places_are_here:
                        await self._look()
                except AdaptiveLoraError as error:
                    _log.debug("no batch is looked for: %s", error.message)  # the store has said why
                except Exception:
                    _log.exception("looking for batches failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._look_now.wait()

    async def _leave(self) -> None:
        await self._runtime.drain.leaving.wait()
        for task in self._runs.values():
            task.cancel()

    @property
    def _places_are_here(self) -> bool:
        return self._desk.settings.batches.max_in_flight > 0 and len(self._runs) < MAX_RUNS

    async def _sweep(self) -> None:
        now = self._desk.now()
        ended_before = now - timedelta(seconds=self._desk.settings.batches.retention)
        await self._desk.call(partial(sweep, now=now, ended_before=ended_before))

    async def _look(self) -> None:
        now = self._desk.now()
        tenants = {run.tenant for run in self._runs}
        room = MAX_RUNS - len(self._runs)
        until = now + timedelta(seconds=self._desk.settings.batches.takeover)

        def claim(stores: Stores) -> list[tuple[Batch, str]]:
            claimed: list[tuple[Batch, str]] = []
            for batch in stores.runs.candidates(now=now, beside=tenants):
                ends = batch.status == "cancelling" or batch.expires_at <= now
                if not ends and (
                    batch.tenant in tenants or not stores.contents.can_read(batch.input_file_id)
                ):
                    continue
                holder = new_holder()
                held = stores.runs.claim(batch.id, holder, now=now, until=until)
                if held is not None:
                    claimed.append((held, holder))
                    tenants.add(batch.tenant)
                if len(claimed) == room:
                    break
            return claimed

        for batch, holder in await self._desk.call(claim):
            self._begin(Run(batch, holder, self._desk, self._runtime, self._gate, self._places))

    def _begin(self, run: Run) -> None:
        def end(_: asyncio.Task[None]) -> None:
            del self._runs[run]
            self._runtime.metrics.batches.running(len(self._runs))
            self._look_now.set()

        task = self._runs[run] = asyncio.create_task(run())
        task.add_done_callback(end)
        self._runtime.metrics.batches.running(len(self._runs))
