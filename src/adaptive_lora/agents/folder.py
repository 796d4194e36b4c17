"""The folder of adapters that an operator keeps (`adapters.path`), taken into the registry when a server
starts.

What the folder holds is served as it was before there was a registry: a new version becomes `prod`, one that
is gone is retired. Between two starts the registry rules: a version rolled back stays rolled back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from adaptive_lora.adapters.catalog import Catalog
from adaptive_lora.adapters.records import PROD, Change, NewVersion, Snapshot, VersionRecord
from adaptive_lora.adapters.registry import Registry
from adaptive_lora.agents.entrance import refusal_of
from adaptive_lora.agents.fleet import Fleet
from adaptive_lora.errors import AdapterError, EngineDead, EngineError
from adaptive_lora.types import AdapterVersion

_log = logging.getLogger(__name__)

BY = Change("server", "found in adapters.path")
GONE = Change("server", "no longer in adapters.path")


def expected(snapshot: Snapshot, catalog: Catalog) -> list[AdapterVersion]:
    """What bare names will mean once `catalog` has been taken in, so that a router can be fitted
    meanwhile."""
    found = {version.name: version for version in catalog.versions}
    prods = {record.name: record.version for record in snapshot.aliases if record.alias == PROD}
    known = {record.id: record for record in snapshot.versions}
    gone = {record.id for record in _gone(snapshot, catalog)}
    result: dict[str, AdapterVersion] = {}
    for name, digits in prods.items():
        record = known.get(f"{name}@{digits}")
        if record is not None and record.id not in gone:
            result[name] = record.as_version()
    for name, version in found.items():
        if name not in result or version.id not in known or result[name].id == version.id:
            result[name] = version
    return [result[name] for name in sorted(result)]


async def take_in(fleet: Fleet, registry: Registry, catalog: Catalog) -> Mapping[str, AdapterError]:
    """Register what is new in the folder, retire what is gone. Returns what was refused, by folder name.

    Raises EngineDead.
    """
    refused: dict[str, AdapterError] = dict(catalog.rejected)
    snapshot = await fleet.snapshot()
    for record in _gone(snapshot, catalog):
        if not record.retired:
            await _retire(registry, snapshot, record)
    for version in catalog.versions:
        try:
            await _take(fleet, registry, snapshot, version)
        except EngineDead:
            raise
        except (AdapterError, EngineError) as error:
            reason = refused[version.path.name] = refusal_of(error)
            _log.error("adapter %s is not served: %s", version.id, reason.message)
    return refused


async def _take(fleet: Fleet, registry: Registry, snapshot: Snapshot, version: AdapterVersion) -> None:
    name, digits = version.name, version.version
    fleet.found(version)
    known = next((record for record in snapshot.versions if record.id == version.id), None)
    if known is None:
        await fleet.entrance.admit(version, origin="folder", source=version.path.name, by=BY)
    else:
        if known.retired:
            await asyncio.to_thread(registry.restore, name, digits, who=BY.who, why=BY.why)
        said = NewVersion.of(
            version, known.base_model, origin=known.origin, source=known.source, refusal=known.refusal
        )
        await asyncio.to_thread(registry.add, said, who=BY.who, why="the manifest has changed")
    has_prod = any(alias.alias == PROD for alias in (await fleet.snapshot()).aliases_of(name))
    if known is None or not has_prod:
        await asyncio.to_thread(registry.point, name, PROD, digits, who=BY.who, why=BY.why)


def _gone(snapshot: Snapshot, catalog: Catalog) -> list[VersionRecord]:
    """Versions of the folder that it no longer holds. A folder that is there and was refused is not gone."""
    found = {version.id for version in catalog.versions}
    return [
        record
        for record in snapshot.versions
        if record.origin == "folder" and record.id not in found and record.source not in catalog.rejected
    ]


async def _retire(registry: Registry, snapshot: Snapshot, record: VersionRecord) -> None:
    for alias in snapshot.aliases_of(record.name):
        if alias.version == record.version:
            await asyncio.to_thread(registry.drop, record.name, alias.alias, who=GONE.who, why=GONE.why)
    await asyncio.to_thread(registry.retire, record.name, record.version, who=GONE.who, why=GONE.why)
    _log.info("adapter %s is retired: adapters.path no longer holds it", record.id)
