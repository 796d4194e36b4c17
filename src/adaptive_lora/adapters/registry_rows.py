"""The registry's rows as records, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from adaptive_lora.adapters.records import (
    AliasRecord,
    CompositionRecord,
    HistoryEntry,
    NewVersion,
    Report,
    VersionRecord,
    unknown_alias,
    unknown_version,
)
from adaptive_lora.adapters.registry_tables import aliases, compositions, history, reports, state, versions
from adaptive_lora.types import Probe


def read_revision(connection: Connection, *, lock: bool = False) -> int:
    """With `lock`, no other change begins before this transaction ends."""
    query = sa.select(state.c.revision)
    revision: int = connection.scalars(query.with_for_update() if lock else query).one()
    return revision


def read_versions(
    connection: Connection, name: str | None = None, version: str | None = None
) -> tuple[VersionRecord, ...]:
    """All, of one name, or one. Sorted by name and version, whatever the database's collation."""
    wanted = {column: value for column, value in (("name", name), ("version", version)) if value is not None}
    found: dict[tuple[str, str], dict[str, Report]] = {}
    for row in connection.execute(sa.select(reports).filter_by(**wanted)):
        report = Report(row.at, row.by, row.content)
        found.setdefault((row.name, row.version), {})[row.kind] = report
    rows = connection.execute(sa.select(versions).filter_by(**wanted))
    records = (_version(row, found.get((row.name, row.version), {})) for row in rows)
    return tuple(sorted(records, key=lambda record: (record.name, record.version)))


def read_version(connection: Connection, name: str, version: str) -> VersionRecord:
    """Raises UnknownAdapter."""
    found = read_versions(connection, name, version)
    if not found:
        raise unknown_version(name, version)
    return found[0]


def read_aliases(connection: Connection, name: str | None = None) -> tuple[AliasRecord, ...]:
    """Sorted by name and alias; of one name, or all."""
    query = sa.select(aliases)
    if name is not None:
        query = query.where(aliases.c.name == name)
    records = (AliasRecord(row.name, row.alias, row.version, row.share) for row in connection.execute(query))
    return tuple(sorted(records, key=lambda record: (record.name, record.alias)))


def read_alias(connection: Connection, name: str, alias: str) -> AliasRecord:
    """Raises UnknownAdapter."""
    for record in read_aliases(connection, name):
        if record.alias == alias:
            return record
    raise unknown_alias(name, alias)


def read_compositions(connection: Connection) -> tuple[CompositionRecord, ...]:
    """Sorted by spec."""
    records = (
        CompositionRecord(row.spec, tuple(row.agents), row.approved, Report(row.at, row.by, row.report))
        for row in connection.execute(sa.select(compositions))
    )
    return tuple(sorted(records, key=lambda record: record.spec))


def read_history(
    connection: Connection, *where: sa.ColumnElement[bool], limit: int | None = None
) -> tuple[HistoryEntry, ...]:
    """Newest first."""
    query = sa.select(history).where(*where).order_by(history.c.id.desc()).limit(limit)
    return tuple(HistoryEntry(**row._mapping) for row in connection.execute(query))


def described(new: NewVersion | VersionRecord) -> dict[str, Any]:
    """The columns of a version that adding it again may change: what is said of it, not what it is."""
    return {
        "description": new.description,
        "examples": list(new.examples),
        "probes": [[probe.prompt, probe.answer] for probe in new.probes],
        "origin": new.origin,
        "source": new.source,
        "refusal": new.refusal,
    }


def _version(row: Row[Any], found: Mapping[str, Report]) -> VersionRecord:
    columns = dict(row._mapping)
    columns["examples"] = tuple(row.examples)
    columns["probes"] = tuple(Probe(prompt, answer) for prompt, answer in row.probes)
    return VersionRecord(**columns, reports=dict(sorted(found.items())))
