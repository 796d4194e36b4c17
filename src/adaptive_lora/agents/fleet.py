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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adaptive_lora.adapters.base import BaseModelInfo
from adaptive_lora.adapters.effect import check_effect, measure_effect
from adaptive_lora.adapters.manifest import read_manifest
from adaptive_lora.adapters.records import (
    ANY,
    PROD,
    AliasRecord,
    Change,
    Expected,
    HistoryEntry,
    NewVersion,
    Origin,
    Snapshot,
    VersionRecord,
)
from adaptive_lora.adapters.registry import Registry
from adaptive_lora.adapters.store import Store
from adaptive_lora.adapters.verify import check_unchanged, verify_adapter
from adaptive_lora.agents.reconcile import Reconciler
from adaptive_lora.agents.view import FleetView, Routes
from adaptive_lora.engine.base import Engine
from adaptive_lora.errors import AdapterError, AdaptiveLoraError, Conflict, HashMismatch, UnknownAdapter
from adaptive_lora.types import AdapterVersion

_log = logging.getLogger(__name__)

POLL_INTERVAL_S = 1.0
"""How soon a change made by another process is seen."""


@dataclass(frozen=True, slots=True)
class Added:
    """What `Fleet.add` did."""

    record: VersionRecord
    alias: str | None
    """What points to it now; None if it can only be asked for by version."""


class Fleet:
    """One process's share of a fleet. All methods are called from one event loop; what blocks runs in
    threads."""

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        store: Store,
        reconciler: Reconciler,
        *,
        base: BaseModelInfo,
        max_rank: int,
        prove: Callable[[AdapterVersion], Awaitable[None]],
        effect_checks: bool = True,
    ) -> None:
        """`prove` makes the engine generate with a loaded adapter, or raises EngineError."""
        self._engine = engine
        self._registry = registry
        self._store = store
        self._reconciler = reconciler
        self._base = base
        self._max_rank = max_rank
        self._prove = prove
        self._effect_checks = effect_checks
        self._one_change = asyncio.Lock()
        self._is_registry_away = False

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

    async def close(self) -> None:
        """Stop what runs in the background; the engine may be stopped then."""
        await self._reconciler.close()

    async def watch(self) -> None:
        """Follow the registry, and the engine, until cancelled."""
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            try:
                revision = await asyncio.to_thread(self._registry.revision)
                if revision != self._reconciler.revision or not self._reconciler.is_settled():
                    await self.reconcile()
            except AdaptiveLoraError as error:
                if not self._is_registry_away:
                    _log.error("the fleet stays as it is: %s", error.message)
                self._is_registry_away = True
            else:
                if self._is_registry_away:
                    _log.info("the registry is back")
                self._is_registry_away = False

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
    ) -> Added:
        """Verify the adapter in `folder` (below `store.staging()`), prove it, keep it and serve it.

        The first version of a name becomes `prod`; a later one gets `alias`, or can be asked for by its
        version only. `force` keeps and serves what fails the effect checks, marked as forced; the file checks
        cannot be forced. Adding what is there already proves it again. Raises AdapterError, and leaves
        nothing behind.
        """
        found = await asyncio.to_thread(verify_adapter, folder, base=self._base, max_rank=self._max_rank)
        was_there = self._store.has(found.name, found.version)
        path = await asyncio.to_thread(self._store.install, folder, found.name, found.version)
        version = replace(found, path=path)
        try:
            async with self._one_change:
                await self.admit(version, origin="store", source=source, by=by, force=force)
                target = await self._alias_for(version.name, alias)
                if target is not None:
                    await asyncio.to_thread(
                        self._registry.point,
                        version.name,
                        target,
                        version.version,
                        share=share,
                        who=by.who,
                        why=by.why,
                    )
                snapshot = await self.snapshot()
                await self._reconciler.run(snapshot)
        except BaseException:
            if not was_there:
                await asyncio.shield(self._discard(version))
            raise
        return Added(snapshot.version(version.name, version.version), target)

    async def admit(
        self, version: AdapterVersion, *, origin: Origin, source: str, by: Change, force: bool = False
    ) -> None:
        """Load `version`, prove it, and register it as loaded. On failure it is unloaded again."""
        await asyncio.to_thread(check_unchanged, version)
        loaded_before = version.id in self._engine.adapters
        await self._engine.load(version)
        try:
            await self._prove(version)
            report, refusal = await self._effect(version, force=force)
            if origin == "store":
                await asyncio.to_thread(self._store.mirror, version.name, version.version)
            pinned = (await asyncio.to_thread(read_manifest, version.path)).pinned
            new = NewVersion.of(version, self._base.name, origin=origin, source=source, refusal=refusal)
            await asyncio.to_thread(self._registry.add, new, who=by.who, why=by.why)
            if report is not None:
                await asyncio.to_thread(
                    self._registry.report, version.name, version.version, "effect", report, who=by.who
                )
            await asyncio.to_thread(
                self._registry.declare,
                version.name,
                version.version,
                loaded=True,
                pinned=pinned or None,
                who=by.who,
                why=by.why,
            )
        except BaseException:
            if not loaded_before:
                await asyncio.shield(self._engine.unload(version.id))
            raise

    async def verify(self, name: str, ref: str, *, by: Change) -> VersionRecord:
        """Check the files and the effect of a loaded version again; the registry keeps the report.

        Raises AdapterError if it fails; it stays loaded, for the operator to decide.
        """
        record = await self._record(name, ref)
        version = self.view.versions.get(record.id)
        if version is None:
            raise Conflict(f"{record.id} is not loaded: load it first")
        again = await asyncio.to_thread(
            verify_adapter, version.path, base=self._base, max_rank=self._max_rank
        )
        if again.id != version.id:
            raise HashMismatch(f"the files of {version.id} have been replaced: remove it, and add it again")
        report = await measure_effect(version, self._engine)
        await asyncio.to_thread(
            self._registry.report, name, record.version, "effect", report.as_dict(), who=by.who
        )
        check_effect(version, report)
        return (await self.snapshot()).version(name, record.version)

    async def load(self, name: str, ref: str, *, by: Change) -> VersionRecord:
        """Declare a known version loaded, and wait until it answers. Raises AdapterError if it cannot be."""
        return await self._declare(name, ref, loaded=True, by=by)

    async def unload(self, name: str, ref: str, *, by: Change) -> VersionRecord:
        """Declare it not loaded; requests that run with it finish. Raises Conflict while an alias points to
        it."""
        record = await self._record(name, ref)
        pointing = [a.alias for a in (await self.snapshot()).aliases_of(name) if a.version == record.version]
        if pointing:
            raise Conflict(f"{record.id} is {', '.join(pointing)} of {name}: point that elsewhere first")
        return await self._declare(name, ref, loaded=False, pinned=False, by=by)

    async def pin(self, name: str, ref: str, *, by: Change) -> VersionRecord:
        """Keep it in its slot whatever else is asked for."""
        record = await self._record(name, ref)
        if record.id in self.view.versions:
            await self._engine.pin(record.id)  # says no if no slot would be left; then nothing is declared
        return await self._declare(name, ref, pinned=True, by=by)

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
        await self._change(
            self._registry.point, name, alias, record.version, share=share, expected=expected, by=by
        )
        return (await self.snapshot()).alias(name, alias)

    async def drop(self, name: str, alias: str, *, by: Change) -> None:
        """Forget an alias."""
        await self._change(self._registry.drop, name, alias, by=by)

    async def promote(self, name: str, alias: str, *, by: Change) -> AliasRecord:
        """Make what `alias` points to `prod`; the alias goes."""
        target = (await self.snapshot()).alias(name, alias)
        if f"{name}@{target.version}" not in self.view.versions:
            raise Conflict(f"{name}@{target.version} is not loaded, and cannot be {PROD}: load it first")
        await self._change(self._registry.promote, name, alias=alias, expected=target.version, by=by)
        return (await self.snapshot()).alias(name, PROD)

    async def rollback(self, name: str, ref: str | None, *, by: Change) -> AliasRecord:
        """Make the version before the present one `prod` again, or the one named. It is loaded first."""
        to = None if ref is None else (await self._record(name, ref)).version
        await self._change(self._registry.rollback, name, to=to, by=by)
        return (await self.snapshot()).alias(name, PROD)

    async def retire(self, name: str, ref: str, *, by: Change) -> VersionRecord:
        """Take a version out of service, and keep it. Raises Conflict while an alias points to it."""
        record = await self._record(name, ref)
        await self._change(self._registry.retire, name, record.version, by=by)
        return (await self.snapshot()).version(name, record.version)

    async def restore(self, name: str, ref: str, *, by: Change) -> VersionRecord:
        """Take a retired version back; it is not loaded yet."""
        record = await self._record(name, ref)
        await self._change(self._registry.restore, name, record.version, by=by)
        return (await self.snapshot()).version(name, record.version)

    async def delete(self, name: str, ref: str, *, by: Change) -> None:
        """Remove a retired version and its files for good. The history stays."""
        record = await self._record(name, ref)
        await self._change(self._registry.delete, name, record.version, by=by)
        if record.origin == "store":
            await asyncio.to_thread(self._remove, name, record.version)

    async def _effect(
        self, version: AdapterVersion, *, force: bool
    ) -> tuple[dict[str, Any] | None, str | None]:
        """The effect report, and why the adapter would have been refused but for `force`."""
        if not self._effect_checks:
            return None, None
        report = await measure_effect(version, self._engine)
        try:
            check_effect(version, report)
        except AdapterError as error:
            if not force:
                raise
            _log.warning("adapter %s is served by force: %s", version.id, error.message)
            return report.as_dict(), error.message
        return report.as_dict(), None

    async def _alias_for(self, name: str, alias: str | None) -> str | None:
        """`alias`, or `prod` for the first version of a name."""
        if alias is not None:
            return alias
        is_known = any(record.alias == PROD for record in (await self.snapshot()).aliases_of(name))
        return None if is_known else PROD

    async def _declare(self, name: str, ref: str, *, by: Change, **state: bool) -> VersionRecord:
        record = await self._record(name, ref)
        self._reconciler.forget_failure(record.id)
        await self._change(self._registry.declare, name, record.version, by=by, **state)
        failure = self._reconciler.failures.get(record.id)
        if state.get("loaded") and failure is not None:
            raise failure
        return (await self.snapshot()).version(name, record.version)

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

    async def _change(self, change: Callable[..., Any], *arguments: Any, by: Change, **options: Any) -> None:
        """Make a change in the registry, and follow it."""
        async with self._one_change:
            await asyncio.to_thread(change, *arguments, who=by.who, why=by.why, **options)
            await self._reconciler.run(await self.snapshot())

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
