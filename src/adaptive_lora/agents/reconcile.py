"""From what the registry declares to what is served: load, pin, teach the router, publish, unload.

Level-triggered: it compares what should be with what is, whatever happened in between. So one function
restores a fleet after a restart, follows another process's change, and fills an engine that came back empty.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptive_lora.adapters.base import BaseModelInfo
from adaptive_lora.adapters.manifest import COMPOSITION
from adaptive_lora.adapters.records import PROD, Snapshot, VersionRecord
from adaptive_lora.adapters.store import Store
from adaptive_lora.adapters.verify import verify_adapter
from adaptive_lora.agents.entrance import refusal_of
from adaptive_lora.agents.names import Composition, parse_name
from adaptive_lora.agents.view import Alias, FleetView, Routes
from adaptive_lora.engine.base import Engine
from adaptive_lora.errors import (
    AdapterError,
    AdaptiveLoraError,
    EngineDead,
    HashMismatch,
    InvalidRequest,
    Unsupported,
)
from adaptive_lora.types import AdapterVersion

_log = logging.getLogger(__name__)

FIRST_RETRY_S = 5.0
LAST_RETRY_S = 300.0
"""A version that cannot be loaded is tried again after 5 s, 10 s, 20 s, ... and every five minutes."""
HANDOVER_S = 1.0
"""Between a version's leaving the view and its leaving the engine: for requests that were decided just
before, and have not reached the engine yet."""


@dataclass(slots=True)
class Failure:
    """Why a declared version does not answer, and when it is tried again."""

    error: AdapterError
    wait_s: float
    retry_at: float
    """On `time.monotonic`'s clock."""


class Reconciler:
    """Owns the view. `run` is called by one task at a time."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        *,
        base: BaseModelInfo,
        max_rank: int,
        prove: Callable[[AdapterVersion], Awaitable[None]],
        fit_router: Callable[[Sequence[AdapterVersion]], Routes],
        keep_router: Callable[[Routes, Mapping[str, str]], None] | None = None,
        unused: Callable[[str], Awaitable[None]] | None = None,
        on_unload: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """`fit_router` learns from scratch; `keep_router` is told of every router that takes its place, with
        the versions that it has learnt from, and again at the next change if it raises. Both block, and run
        in threads. `unused` waits until no request, also before it reaches the engine, asks for a version.
        `on_unload` is told the id of each version that goes, before it goes."""
        self._engine = engine
        self._store = store
        self._base = base
        self._max_rank = max_rank
        self._prove = prove
        self._fit_router = fit_router
        self._keep_router = keep_router
        self._unused = unused
        self._on_unload = on_unload
        self.view = FleetView()
        self.revision = -1
        """Of the registry, as last reconciled."""
        self.folders: dict[str, Path] = {}
        """Where the versions of `adapters.path` lie, by id."""
        self._wanted: dict[str, VersionRecord] = {}
        self._failures: dict[str, Failure] = {}
        self._learnt: Mapping[str, AdapterVersion] = {}  # by the view's router
        self._kept: Mapping[str, str] = {}  # versions by name, as `keep_router` was told last
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._freeing: set[str] = set()  # those whose leaving cannot be called off any more

    @property
    def failures(self) -> Mapping[str, AdapterError]:
        """Declared versions that do not answer, by id."""
        return {version_id: failure.error for version_id, failure in self._failures.items()}

    def forget_failure(self, version_id: str) -> None:
        """Try it again at once."""
        self._failures.pop(version_id, None)

    def learnt(self, router: Routes, versions: Sequence[AdapterVersion]) -> None:
        """Start with a router that has been fitted on `versions` already."""
        self.view = FleetView(router=router)
        self._learnt = {version.name: version for version in versions}
        self._kept = _versions(self._learnt)

    def is_settled(self) -> bool:
        """Whether there is nothing to do now: what should be loaded is, or has failed a moment ago."""
        now = time.monotonic()
        present = self._engine.adapters
        return not any(
            version_id not in present and self._may_try(version_id, now) for version_id in self._wanted
        )

    async def run(self, snapshot: Snapshot) -> None:
        """Bring engine, router and view to `snapshot`. What cannot be loaded is in `failures`; the rest is
        served. Raises EngineDead."""
        self._wanted = _wanted(snapshot)
        for version_id in self._failures.keys() - self._wanted.keys():
            del self._failures[version_id]
        ready = {}
        for version_id, record in sorted(self._wanted.items()):
            version = await self._ready(record)
            if version is not None:
                ready[version_id] = version
        pinned = await self._pin(ready)
        aliases = self._aliases(snapshot, ready)
        prods = {
            name: ready[f"{name}@{known[PROD].version}"] for name, known in aliases.items() if PROD in known
        }
        router, learnt = await self._route_to(prods)
        # Together: a router that is not in the view has learnt nothing.
        self.view = FleetView(ready, aliases, router, pinned, approved(snapshot, prods))
        self._learnt = learnt
        self.revision = snapshot.revision
        for version_id, version in list(self._engine.adapters.items()):
            if version_id not in ready and version.name != COMPOSITION and version_id not in self._leaving:
                self._leaving[version_id] = asyncio.create_task(self._unload(version_id))

    async def close(self) -> None:
        """Wait for nobody: the engine is about to stop."""
        for task in self._leaving.values():
            task.cancel()
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)

    async def _ready(self, record: VersionRecord) -> AdapterVersion | None:
        """The version, loaded; None if it cannot be now."""
        if record.id in self._leaving:
            if record.id not in self._freeing:
                self._leaving[record.id].cancel()
            await asyncio.wait([self._leaving[record.id]])
        if record.id in self._engine.adapters:
            self.forget_failure(record.id)
            return self._engine.adapters[record.id]
        if not self._may_try(record.id, time.monotonic()):
            return None
        try:
            version = await self._files(record)
            await self._engine.load(version)
            await self._prove(version)
        except EngineDead:
            raise
        except AdaptiveLoraError as error:
            await self._give_up(record.id, error)
            return None
        self.forget_failure(record.id)
        return version

    async def _files(self, record: VersionRecord) -> AdapterVersion:
        """The verified files of a version: in `adapters.path`, in the store, or fetched from its mirror."""
        path = self.folders.get(record.id)
        if path is None:
            if record.origin == "folder":
                raise AdapterError(f"adapters.path of this server does not hold {record.id}: put it there")
            path = await asyncio.to_thread(self._store.fetch, record.name, record.version)
        version = await asyncio.to_thread(verify_adapter, path, base=self._base, max_rank=self._max_rank)
        if version.id != record.id:
            raise HashMismatch(
                f"the files of {record.id} are now those of {version.id}: put new weights into a new folder"
            )
        return version

    async def _give_up(self, version_id: str, error: AdaptiveLoraError) -> None:
        error = refusal_of(error)
        if version_id in self._engine.adapters:
            await self._engine.unload(version_id)
        before = self._failures.get(version_id)
        wait_s = min(before.wait_s * 2, LAST_RETRY_S) if before else FIRST_RETRY_S
        self._failures[version_id] = Failure(error, wait_s, time.monotonic() + wait_s)
        if before is None or before.error.message != error.message:
            _log.error("adapter %s is not served: %s", version_id, error.message)

    def _may_try(self, version_id: str, now: float) -> bool:
        failure = self._failures.get(version_id)
        return failure is None or failure.retry_at <= now

    async def _pin(self, ready: Mapping[str, AdapterVersion]) -> frozenset[str]:
        pinned = set()
        for version_id in ready:
            if not self._wanted[version_id].pinned:
                if version_id in self.view.pinned:
                    await self._engine.unpin(version_id)
                continue
            try:
                await self._engine.pin(version_id)
                pinned.add(version_id)
            except Unsupported as error:
                if version_id in self.view.pinned or version_id not in self.view.versions:
                    _log.warning("%s is declared pinned, and cannot be: %s", version_id, error.message)
        return frozenset(pinned)

    def _aliases(
        self, snapshot: Snapshot, ready: Mapping[str, AdapterVersion]
    ) -> dict[str, dict[str, Alias]]:
        """Aliases whose target is ready. One that moved to a version which cannot be loaded stays where it
        was, as long as that is still there."""
        aliases: dict[str, dict[str, Alias]] = {}
        for record in snapshot.aliases:
            target = Alias(record.version, record.share or 0.0)
            before = self.view.aliases.get(record.name, {}).get(record.alias)
            if f"{record.name}@{record.version}" not in ready:
                if before is None or f"{record.name}@{before.version}" not in ready:
                    continue
                target = before
            aliases.setdefault(record.name, {})[record.alias] = target
        return aliases

    async def _route_to(
        self, prods: Mapping[str, AdapterVersion]
    ) -> tuple[Routes | None, Mapping[str, AdapterVersion]]:
        """The router over what bare names mean, and what it has learnt from. Fitted anew where there was
        none; else only what changed."""
        router = self.view.router
        if router is None:
            if not prods:
                return None, {}
            router = await asyncio.to_thread(self._fit_router, list(prods.values()))
            self._kept = _versions(prods)
            return router, dict(prods)
        for name in self._learnt.keys() - prods.keys():
            router = await asyncio.to_thread(_without, router, name)
        for name, version in prods.items():
            known = self._learnt.get(name)
            if known is None or (known.examples, known.description) != (
                version.examples,
                version.description,
            ):
                router = await asyncio.to_thread(_with, router, version)
        await self._keep(router, _versions(prods))
        return router, dict(prods)

    async def _keep(self, router: Routes, versions: Mapping[str, str]) -> None:
        """Who answers does not depend on whether a restart will know it."""
        if versions == self._kept or self._keep_router is None:
            return
        try:
            await asyncio.to_thread(self._keep_router, router, versions)
        except AdaptiveLoraError as error:
            _log.error("the router is not kept, a restart fits it anew: %s", error.message)
        else:
            self._kept = versions

    async def _unload(self, version_id: str) -> None:
        """Once the view no longer shows it: wait for the requests that run with it, then free it."""
        try:
            await asyncio.sleep(HANDOVER_S)
            if self._unused is not None:
                await self._unused(version_id)
            self._freeing.add(version_id)
            if self._on_unload is not None:
                await self._on_unload(version_id)
            await self._engine.unload(version_id)
            _log.info("adapter %s is unloaded", version_id)
        except AdaptiveLoraError as error:
            _log.warning("adapter %s could not be unloaded: %s", version_id, error.message)
        finally:
            self._freeing.discard(version_id)
            del self._leaving[version_id]


def _wanted(snapshot: Snapshot) -> dict[str, VersionRecord]:
    """What must be loaded: what is declared so, and whatever an alias points to."""
    pointed = {f"{alias.name}@{alias.version}" for alias in snapshot.aliases}
    return {
        record.id: record
        for record in snapshot.versions
        if not record.retired and (record.loaded or record.id in pointed)
    }


def approved(snapshot: Snapshot, prods: Mapping[str, AdapterVersion]) -> dict[frozenset[str], Composition]:
    """Those that have beaten the very versions that are `prod` now; other versions have to be compared
    anew."""
    present = {version.id for version in prods.values()}
    found = {}
    for record in snapshot.compositions:
        name = parse_name(record.spec)
        if record.approved and isinstance(name, Composition) and present.issuperset(record.agents):
            found[frozenset(agent.name for agent, _ in name.parts)] = name
    return found


def _versions(learnt: Mapping[str, AdapterVersion]) -> dict[str, str]:
    return {name: version.version for name, version in learnt.items()}


def _with(router: Routes, version: AdapterVersion) -> Routes:
    try:
        return router.with_agent(version.name, version.examples, description=version.description)
    except InvalidRequest:  # no usable example: it answers explicit calls only
        return _without(router, version.name)


def _without(router: Routes, name: str) -> Routes:
    return router if router.standing(name).routing == "explicit_only" else router.without_agent(name)
