"""The living fleet: adapters come, are proven, served, pinned, aliased, rolled out and back, while requests
run.

What should be served is declared in the registry; `reconcile` brings engine, router and view there. Every
change is a change of the registry followed by that, in this process at once, in others when they see the new
revision. So it does not matter who made a change, nor whether the engine or this process has been away
meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from adaptive_lora.adapters.effect import check_effect, measure_effect
from adaptive_lora.adapters.records import (
    ANY,
    PROD,
    AliasRecord,
    Change,
    Expected,
    HistoryEntry,
    Snapshot,
    VersionRecord,
)
from adaptive_lora.adapters.registry import Registry
from adaptive_lora.adapters.store import Store
from adaptive_lora.agents.entrance import Entrance, recorded
from adaptive_lora.agents.reconcile import Reconciler
from adaptive_lora.agents.view import FleetView, Routes
from adaptive_lora.engine.base import Engine
from adaptive_lora.errors import (
    AdapterError,
    AdaptiveLoraError,
    Conflict,
    EngineDead,
    HashMismatch,
    RegistryUnavailable,
    UnknownAdapter,
)
from adaptive_lora.types import AdapterVersion

_log = logging.getLogger(__name__)

T = TypeVar("T")

POLL_INTERVAL_S = 1.0
"""How soon a change made by another process is seen."""


class Fleet:
    """One process's share of a fleet. All methods are called from one event loop; what blocks runs in
    threads."""

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        store: Store,
        reconciler: Reconciler,
        entrance: Entrance,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._store = store
        self._reconciler = reconciler
        self._entrance = entrance
        self._one_change = asyncio.Lock()
        self._problem: str | None = None
        """What keeps it from following the registry."""
        self.registry_is_up = True
        """As of the last look."""

    @property
    def view(self) -> FleetView:
        return self._reconciler.view

    @property
    def store(self) -> Store:
        return self._store

    @property
    def failures(self) -> Mapping[str, AdapterError]:
        """Declared versions that do not answer, by id, with the reason."""
        return self._reconciler.failures

    def start_with(self, router: Routes, versions: Sequence[AdapterVersion]) -> None:
        """Begin with a router that has been fitted on `versions`."""
        self._reconciler.learnt(router, versions)

    def found(self, version: AdapterVersion) -> None:
        """Its files lie in a folder of the operator's, and not in the store."""
        self._reconciler.folders[version.id] = version.path

    @property
    def entrance(self) -> Entrance:
        """For versions that come by another way than `add`."""
        return self._entrance

    async def close(self) -> None:
        """Stop what runs in the background; the engine may be stopped then."""
        await self._reconciler.close()

    async def watch(self) -> None:
        """Follow the registry, and the engine, until cancelled. One log line per change of state. Raises
        EngineDead."""
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            problem = None
            registry_is_up = True
            try:
                revision = await asyncio.to_thread(self._registry.revision)
                if revision != self._reconciler.revision or not self._reconciler.is_settled():
                    await self.reconcile()
            except EngineDead:
                raise
            except AdaptiveLoraError as error:
                problem = error.message
                registry_is_up = not isinstance(error, RegistryUnavailable)
            if problem != self._problem:
                if problem is None:
                    _log.info("the fleet follows the registry again")
                else:
                    _log.error("the fleet stays as it is: %s", problem)
            self._problem = problem
            self.registry_is_up = registry_is_up

    async def reconcile(self) -> None:
        """Bring engine, router and view to what the registry declares."""
        async with self._one_change:
            await self._reconciler.run(await self.snapshot())

    async def snapshot(self) -> Snapshot:
        return await asyncio.to_thread(self._registry.snapshot)

    async def history(self, name: str | None, *, limit: int, before: int | None) -> tuple[HistoryEntry, ...]:
        return await asyncio.to_thread(self._registry.history, name, limit=limit, before_id=before)

    async def add(
        self,
        folder: Path,
        *,
        source: str,
        by: Change,
        alias: str | None = None,
        share: float | None = None,
        force: bool = False,
    ) -> VersionRecord:
        """Verify the adapter in `folder` (below `store.staging()`), prove it, keep it and serve it.

        The first version of a name becomes `prod`; a later one gets `alias`, or can be asked for by its
        version only. `force` keeps and serves what fails the effect checks, marked as forced; the file checks
        cannot be forced. Adding what is there already proves it again. Raises AdapterError, and leaves
        nothing behind; Conflict or InvalidRequest for an alias that cannot be, which the version outlives.
        """
        if share is not None and alias is None:
            raise Conflict("share is for an alias: name it, as alias='canary'")
        found = await self._entrance.check_files(folder)
        # Files come and go with the change that they belong to: else a refused upload, or a deletion, takes
        # those of another upload of the same content.
        async with self._one_change:
            was_there = self._store.has(found.name, found.version)
            path = await asyncio.to_thread(self._store.install, folder, found.name, found.version)
            version = replace(found, path=path)
            try:
                await self._entrance.admit(version, origin="store", source=source, by=by, force=force)
                target = await self._alias_for(version.name, alias)
                if target is not None:
                    point = self._registry.point
                    await recorded(point, version.name, target, version.version, share=share, by=by)
                snapshot = await self.snapshot()
                await self._reconciler.run(snapshot)
            except BaseException:
                if not was_there:
                    await asyncio.shield(self._discard(version))
                raise
        return snapshot.version(version.name, version.version)

    async def verify(self, name: str, ref: str, *, by: Change) -> VersionRecord:
        """Check the files and the effect of a loaded version again; the registry keeps the report.

        Raises AdapterError if it fails; it stays loaded, for the operator to decide.
        """
        record = await self._record(name, ref)
        version = self.view.versions.get(record.id)
        if version is None:
            raise Conflict(f"{record.id} is not loaded: load it first")
        again = await self._entrance.check_files(version.path)
        if again.id != version.id:
            raise HashMismatch(f"the files of {version.id} have been replaced: remove it, and add it again")
        report = await measure_effect(version, self._engine)
        record = await asyncio.to_thread(
            self._registry.report, name, record.version, "effect", report.as_dict(), who=by.who
        )
        check_effect(version, report)
        return record

    async def load(self, name: str, ref: str, *, by: Change) -> VersionRecord:
        """Declare a known version loaded, and wait until it answers. Raises AdapterError if it cannot be."""
        record = await self._declare(name, ref, loaded=True, by=by)
        self._raise_failure(record.id)
        return record

    async def unload(self, name: str, ref: str, *, by: Change) -> VersionRecord:
        """Declare it not loaded; requests that run with it finish. Raises Conflict while an alias points to
        it."""
        return await self._declare(name, ref, loaded=False, pinned=False, by=by)

    async def pin(self, name: str, ref: str, *, by: Change) -> VersionRecord:
        """Keep it in its slot whatever else is asked for."""
        record = await self._record(name, ref)
        if record.id in self.view.versions:
            await self._engine.pin(record.id)  # says no if no slot would be left; then nothing is declared
        try:
            return await self._declare(name, ref, pinned=True, by=by)
        except BaseException:
            # `reconcile` gives back only what the view shows as pinned.
            if record.id in self._engine.adapters and record.id not in self.view.pinned:
                await asyncio.shield(self._engine.unpin(record.id))
            raise

    async def unpin(self, name: str, ref: str, *, by: Change) -> VersionRecord:
        return await self._declare(name, ref, pinned=False, by=by)

    async def point(
        self,
        name: str,
        alias: str,
        ref: str,
        *,
        share: float | None = None,
        expected: Expected = ANY,
        by: Change,
    ) -> AliasRecord:
        """Point `alias` at a version that is ready; Conflict unless it points to `expected` now."""
        record = await self._record(name, ref)
        if record.id not in self.view.versions:
            raise Conflict(f"{record.id} is not loaded, and cannot answer as {alias!r}: load it first")
        return await self._change(
            self._registry.point, name, alias, record.version, share=share, expected=expected, by=by
        )

    async def drop(self, name: str, alias: str, *, by: Change) -> None:
        """Forget an alias."""
        await self._change(self._registry.drop, name, alias, by=by)

    async def promote(self, name: str, alias: str, *, by: Change) -> AliasRecord:
        """Make what `alias` points to `prod`; the alias goes."""
        target = (await self.snapshot()).alias(name, alias)
        if f"{name}@{target.version}" not in self.view.versions:
            raise Conflict(f"{name}@{target.version} is not loaded, and cannot be {PROD}: load it first")
        return await self._change(self._registry.promote, name, alias=alias, expected=target.version, by=by)

    async def rollback(self, name: str, ref: str | None, *, by: Change) -> AliasRecord:
        """Make the version before the present one `prod` again, or the one named.

        If it is not loaded, the present one answers until it is. Raises AdapterError if it cannot be: then
        the present one goes on, and loading is tried again.
        """
        to = None if ref is None else (await self._record(name, ref)).version
        prod = await self._change(self._registry.rollback, name, to=to, by=by)
        self._raise_failure(f"{name}@{prod.version}")
        return prod

    async def retire(self, name: str, ref: str, *, by: Change) -> VersionRecord:
        """Take a version out of service, and keep it. Raises Conflict while an alias points to it."""
        record = await self._record(name, ref)
        return await self._change(self._registry.retire, name, record.version, by=by)

    async def restore(self, name: str, ref: str, *, by: Change) -> VersionRecord:
        """Take a retired version back; it is not loaded yet."""
        record = await self._record(name, ref)
        return await self._change(self._registry.restore, name, record.version, by=by)

    async def delete(self, name: str, ref: str, *, by: Change) -> None:
        """Remove a retired version and its files for good. The history stays."""
        record = await self._record(name, ref)
        async with self._one_change:
            await recorded(self._registry.delete, name, record.version, by=by)
            await self._reconciler.run(await self.snapshot())
            if record.origin == "store":
                await asyncio.to_thread(self._remove, name, record.version)

    async def _alias_for(self, name: str, alias: str | None) -> str | None:
        """`alias`, or `prod` for the first version of a name."""
        if alias is not None:
            return alias
        is_known = any(record.alias == PROD for record in (await self.snapshot()).aliases_of(name))
        return None if is_known else PROD

    async def _declare(self, name: str, ref: str, *, by: Change, **state: bool) -> VersionRecord:
        record = await self._record(name, ref)
        self._reconciler.forget_failure(record.id)
        return await self._change(self._registry.declare, name, record.version, by=by, **state)

    def _raise_failure(self, version_id: str) -> None:
        """Why a version that was to be loaded a moment ago is not."""
        failure = self._reconciler.failures.get(version_id)
        if failure is not None:
            raise failure

    async def _record(self, name: str, ref: str) -> VersionRecord:
        """A version by its digits, or by an alias."""
        snapshot = await self.snapshot()
        records = snapshot.versions_of(name)
        if not records:
            raise UnknownAdapter(f"the registry knows no adapter {name!r}")
        pointed = {record.alias: record.version for record in snapshot.aliases_of(name)}
        wanted = pointed.get(ref, ref)
        matches = [record for record in records if record.version.startswith(wanted)]
        if len(matches) != 1:
            there_are = ", ".join(record.version for record in records)
            problem = "has no version or alias" if not matches else "has several versions that begin with"
            raise UnknownAdapter(f"{name!r} {problem} {ref!r}; it has {there_are}")
        return matches[0]

    async def _change(self, change: Callable[..., T], *arguments: Any, by: Change, **options: Any) -> T:
        """Make a change in the registry, and follow it."""
        async with self._one_change:
            changed = await recorded(change, *arguments, by=by, **options)
            await self._reconciler.run(await self.snapshot())
        return changed

    def _remove(self, name: str, version: str) -> None:
        self._store.remove(name, version)
        self._store.unmirror(name, version)

    async def _discard(self, version: AdapterVersion) -> None:
        """Remove the files of a version that was not accepted, unless another process has accepted it."""
        try:
            known = await self.snapshot()
            if not any(record.id == version.id for record in known.versions):
                await asyncio.to_thread(self._remove, version.name, version.version)
        except AdaptiveLoraError as error:
            _log.warning("the files of %s stay behind: %s", version.id, error.message)
