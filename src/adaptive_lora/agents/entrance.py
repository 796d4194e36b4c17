"""How a new version comes in: its files are checked, it is loaded, proven in the engine, and registered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from adaptive_lora.adapters.base import BaseModelInfo
from adaptive_lora.adapters.effect import check_effect, measure_effect
from adaptive_lora.adapters.manifest import read_manifest
from adaptive_lora.adapters.records import Change, NewVersion, Origin
from adaptive_lora.adapters.registry import Registry
from adaptive_lora.adapters.store import Store
from adaptive_lora.adapters.verify import check_unchanged, verify_adapter
from adaptive_lora.engine.base import Engine
from adaptive_lora.errors import AdapterError, AdaptiveLoraError, EngineError
from adaptive_lora.types import AdapterVersion

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Entrance:
    """Nobody can ask for a version before it has been through here."""

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        store: Store,
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
        self._base = base
        self._max_rank = max_rank
        self._prove = prove
        self._effect_checks = effect_checks

    async def check_files(self, folder: Path) -> AdapterVersion:
        """The version in `folder`. Raises AdapterError."""
        return await asyncio.to_thread(verify_adapter, folder, base=self._base, max_rank=self._max_rank)

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
            await recorded(self._registry.add, new, by=by)
            if report is not None:
                await asyncio.to_thread(
                    self._registry.report, version.name, version.version, "effect", report, who=by.who
                )
            declare = self._registry.declare
            await recorded(declare, version.name, version.version, loaded=True, pinned=pinned or None, by=by)
        except BaseException:
            if not loaded_before:
                await asyncio.shield(self._engine.unload(version.id))
            raise

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


async def recorded(change: Callable[..., T], *arguments: Any, by: Change, **options: Any) -> T:
    """A change of the registry, in a thread, with who makes it and why."""
    return await asyncio.to_thread(change, *arguments, who=by.who, why=by.why, **options)


def refusal_of(error: AdaptiveLoraError) -> AdapterError:
    """Why a version is not served, whatever kept it from it."""
    if isinstance(error, AdapterError):
        return error
    return AdapterError(
        f"it does not generate: {error.message}" if isinstance(error, EngineError) else error.message
    )
