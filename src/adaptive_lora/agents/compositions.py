"""Compositions of agents: built off the request path, kept in the engine, evicted by use."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from adaptive_lora.adapters.compose import Composed, Method, Parts
from adaptive_lora.adapters.composition_files import CompositionFiles, Held
from adaptive_lora.engine.base import Engine
from adaptive_lora.engine.threads import in_daemon_thread
from adaptive_lora.errors import AdaptiveLoraError, Overloaded
from adaptive_lora.types import AdapterVersion

_log = logging.getLogger(__name__)

MAX_BUILDS = 8
"""At once, one running and the others waiting; beyond it requests are told to come back later."""
HANDOVER_S = 30.0
"""How long a composition stays for the request that it was handed to, until that says `using`."""


@dataclass(slots=True)
class CompositionCounts:
    """What has happened so far."""

    hits: int = 0
    """Asked for, and in the engine already (or on its way there)."""
    found: int = 0
    """On disk: loaded without building."""
    built: int = 0
    build_seconds: float = 0.0
    failed: int = 0
    """Neither built nor loaded."""
    evicted: int = 0


@dataclass(slots=True, eq=False)
class _Entry:
    """One composition in the engine, or on its way."""

    key: str
    part_ids: frozenset[str]
    bringing: asyncio.Task[Held]
    handed_out_at: float = math.inf
    """On the event loop's clock, the last time; not yet."""
    n_using: int = 0

    @property
    def held(self) -> Held | None:
        """None until it is loaded."""
        done = self.bringing.done() and not self.bringing.cancelled() and not self.bringing.exception()
        return self.bringing.result() if done else None


class Compositions:
    """The compositions of one process. All methods are called from one event loop."""

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        *,
        max_rank: int,
        capacity: int,
        method: Method = "cat",
        density: float = 0.5,
        seed: int = 0,
        handover_s: float = HANDOVER_S,
        unused: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """`capacity`: how many stay in the engine, and in `folder`, when more have been asked for. `unused`
        waits until no request, also before it reaches the engine, asks for an id."""
        self._engine = engine
        self._files = CompositionFiles(
            folder, max_rank=max_rank, capacity=capacity, method=method, density=density, seed=seed
        )
        self._capacity = capacity
        self._handover_s = handover_s
        self._unused = unused
        self._entries: dict[str, _Entry] = {}  # by key, least recently used first
        self._one_build = asyncio.Semaphore(1)
        self._n_builds = 0
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self.counts = CompositionCounts()

    @property
    def loaded(self) -> list[Composed]:
        """What the engine has, least recently used first."""
        return [held.composed for entry in self._entries.values() if (held := entry.held)]

    async def get(self, parts: Parts) -> AdapterVersion:
        """The composition of `parts`, loaded.

        One that is loaded costs nothing. Else it is read from disk or built in a thread, once for all who ask
        for it at the same time; if that fails they are all told, and the next request tries again. Raises
        what `compose` and `Engine.load` raise, and Overloaded if too many are being built.
        """
        key = self._files.key(parts)
        entry = self._entries.pop(key, None)
        if entry is not None and (lost := entry.held) and lost.version.id not in self._engine.adapters:
            lost.release()  # the engine has come back empty
            entry = None
        if entry is None:
            entry = _Entry(
                key,
                frozenset(version.id for version, _ in parts),
                asyncio.create_task(self._bring(key, parts)),
            )
            entry.bringing.add_done_callback(partial(self._brought, entry))
        else:
            self.counts.hits += 1
        self._entries[key] = entry  # the most recently used
        held = await asyncio.shield(entry.bringing)
        entry.handed_out_at = asyncio.get_running_loop().time()
        self._evict()
        return held.version

    @contextmanager
    def using(self, version_id: str) -> Iterator[None]:
        """While a request runs with a composition it is not evicted. Other ids are nothing to us."""
        entries = [e for e in self._entries.values() if (h := e.held) and h.version.id == version_id]
        for entry in entries:
            entry.n_using += 1
        try:
            yield
        finally:
            for entry in entries:
                entry.n_using -= 1
            if entries:
                self._evict()

    async def forget(self, version_id: str) -> None:
        """Drop every composition that the version is part of, here and on disk, once no request runs with
        it."""
        gone = [entry for entry in self._entries.values() if version_id in entry.part_ids]
        for entry in gone:
            del self._entries[entry.key]
        if gone:
            await asyncio.wait([entry.bringing for entry in gone])
        for entry in gone:
            if held := entry.held:
                self._let_go(held)
        if leaving := [self._leaving[entry.key] for entry in gone if entry.key in self._leaving]:
            await asyncio.wait(leaving)
        for key in await asyncio.to_thread(self._files.with_part, version_id):
            await asyncio.to_thread(self._files.remove, key)

    async def close(self) -> None:
        """Stop what is on its way; the files stay for the next start. The engine is stopped by others."""
        tasks = [*self._leaving.values(), *(entry.bringing for entry in self._entries.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for entry in self._entries.values():
            if held := entry.held:
                held.release()
        self._entries.clear()

    async def _bring(self, key: str, parts: Parts) -> Held:
        """Find or build, and load."""
        if key in self._leaving:
            await asyncio.wait([self._leaving[key]])
        held = await asyncio.to_thread(self._files.find, key)
        if held is None:
            held = await self._build(parts)
        else:
            self.counts.found += 1
        try:
            await self._engine.load(held.version)
        except BaseException:
            held.release()
            raise
        return held

    async def _build(self, parts: Parts) -> Held:
        if self._n_builds >= MAX_BUILDS:
            raise Overloaded(f"{self._n_builds} compositions are being built: try again in some seconds")
        self._n_builds += 1
        try:
            async with self._one_build:
                started = asyncio.get_running_loop().time()
                held = await in_daemon_thread(partial(self._files.build, parts))
                seconds = asyncio.get_running_loop().time() - started
        finally:
            self._n_builds -= 1
        self.counts.built += 1
        self.counts.build_seconds += seconds
        composed = held.composed
        _log.info(
            "composition %s of %s: rank %d, relative error %.2g (%.2g in %s), built in %.2f s",
            composed.version.id,
            composed.version.description,
            composed.version.rank,
            composed.relative_error,
            composed.worst_error,
            composed.worst_module,
            seconds,
        )
        return held

    def _brought(self, entry: _Entry, task: asyncio.Task[Held]) -> None:
        """A failure is told to those who wait for it, and to nobody else."""
        if task.cancelled() or task.exception() is not None:
            self.counts.failed += 1
            if self._entries.get(entry.key) is entry:
                del self._entries[entry.key]
        else:
            entry.handed_out_at = task.get_loop().time()

    def _evict(self) -> None:
        """Let go of those that were used least recently and are not used now, down to the capacity."""
        now = asyncio.get_running_loop().time()
        for entry in list(self._entries.values()):
            if len(self._entries) <= self._capacity:
                return
            held = entry.held
            if held and not entry.n_using and now - entry.handed_out_at > self._handover_s:
                del self._entries[entry.key]
                self.counts.evicted += 1
                self._let_go(held)

    def _let_go(self, held: Held) -> None:
        self._leaving[held.key] = asyncio.create_task(self._leave(held))

    async def _leave(self, held: Held) -> None:
        """Unload, which waits for the requests that run with it; then the files may go."""
        try:
            try:
                if self._unused is not None:
                    await self._unused(held.version.id)
                await self._engine.unload(held.version.id)
            finally:
                held.release()
            await asyncio.to_thread(self._files.trim)
        except (AdaptiveLoraError, OSError) as error:
            _log.warning("composition %s was not unloaded: %s", held.version.id, error)
        finally:
            del self._leaving[held.key]
