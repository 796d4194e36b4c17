"""The registry: which versions of each adapter there are, what is declared about them, what its aliases mean.

    name ── versions   immutable, by the hash of their content; added, loaded, pinned, retired, deleted
         └─ aliases    prod, canary, own ones: pointers to versions, the only thing that moves

It is a database (registry_database.py), so that it outlives the process and several gateways share it. Every
change is one transaction, raises `revision` by one, and leaves entries in the history: who, when, what, why.
Whoever follows the registry polls `revision()`, and reads `snapshot()` when it has changed.

All methods block: call them in threads. They raise RegistryUnavailable if the database does not answer in
time; a change may have been made then nevertheless, if the answer alone was lost. Values that cannot stand in
the registry raise InvalidRequest, unknown names and versions UnknownAdapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import sqlalchemy as sa

from adaptive_lora.adapters import registry_aliases
from adaptive_lora.adapters import registry_checks as checks
from adaptive_lora.adapters.records import (
    ANY,
    AliasRecord,
    CompositionRecord,
    Expected,
    HistoryEntry,
    NewVersion,
    Report,
    Snapshot,
    VersionRecord,
)
from adaptive_lora.adapters.registry_change import changing
from adaptive_lora.adapters.registry_database import Database
from adaptive_lora.adapters.registry_rows import (
    described,
    read_aliases,
    read_compositions,
    read_history,
    read_revision,
    read_version,
    read_versions,
)
from adaptive_lora.adapters.registry_schema import open_database
from adaptive_lora.adapters.registry_tables import compositions, history, reports, versions
from adaptive_lora.errors import Conflict, InvalidRequest

MAX_HISTORY = 1_000
"""Entries that one call returns at most."""


class Registry:
    """Thread-safe; other processes may use the same database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str, *, timeout_s: float = 5.0) -> Self:
        """As `open_database`."""
        return cls(open_database(url, timeout_s=timeout_s))

    def __repr__(self) -> str:
        return f"<Registry in {self._database}>"

    def close(self) -> None:
        self._database.close()

    # Reading

    def revision(self) -> int:
        """Rises with every change. Cheap."""
        with self._database.transaction() as connection:
            return read_revision(connection)

    def snapshot(self) -> Snapshot:
        """Everything but the history, as it was at one moment."""
        with self._database.transaction() as connection:
            return Snapshot(
                read_revision(connection),
                read_versions(connection),
                read_aliases(connection),
                read_compositions(connection),
            )

    def history(
        self, name: str | None = None, *, limit: int = 100, before_id: int | None = None
    ) -> tuple[HistoryEntry, ...]:
        """Newest first: of one adapter (or composition) or of all, older than `before_id`."""
        if not 1 <= limit <= MAX_HISTORY:
            raise InvalidRequest(f"limit is between 1 and {MAX_HISTORY}, not {limit}")
        where: list[sa.ColumnElement[bool]] = []
        if name is not None:
            where.append(history.c.name == name)
        if before_id is not None:
            where.append(history.c.id < before_id)
        with self._database.transaction() as connection:
            return read_history(connection, *where, limit=limit)

    # Versions

    def add(self, new: NewVersion, *, who: str, why: str) -> VersionRecord:
        """Add a version, neither loaded nor pinned. One that is there already stays; what is said of it
        (description, examples, probes, where it came from, whether it was forced) becomes what `new` says.

        Raises Conflict if it is retired.
        """
        new = checks.checked_version(new)
        name, version, said = new.name, new.version, described(new)
        with changing(self._database, who, why) as change:
            connection = change.connection
            known = read_versions(connection, name, version)
            if not known:
                what = {"rank": new.rank, "size_bytes": new.size_bytes, "base_model": new.base_model}
                added = {"added_at": change.at, "added_by": who}
                undeclared = {"loaded": False, "pinned": False, "retired": False}
                row = {"name": name, "version": version, **what, **said, **added, **undeclared}
                connection.execute(sa.insert(versions).values(row))
                change.record("add", name, version, after=_forced(new.refusal))
            elif known[0].retired:
                raise Conflict(f"{known[0].id} is retired: restore it instead of adding it again")
            elif described(known[0]) != said:
                connection.execute(sa.update(versions).filter_by(name=name, version=version).values(said))
                before, after = _forced(known[0].refusal), _forced(new.refusal)
                change.record("update", name, version, before=before, after=after)
            return read_version(connection, name, version)

    def report(
        self, name: str, version: str, kind: str, report: Mapping[str, Any], *, who: str
    ) -> VersionRecord:
        """Keep what a check of `kind` ("effect", "parity") found, in place of what it found before."""
        checks.check_kind(kind)
        content = checks.checked_report(report)
        with changing(self._database, who, "") as change:
            key = {"name": name, "version": version, "kind": kind}
            read_version(change.connection, name, version)
            change.connection.execute(sa.delete(reports).filter_by(**key))
            change.connection.execute(sa.insert(reports).values(**key, at=change.at, by=who, content=content))
            change.record("report", name, version, after=kind)
            return read_version(change.connection, name, version)

    def declare(
        self,
        name: str,
        version: str,
        *,
        loaded: bool | None = None,
        pinned: bool | None = None,
        who: str,
        why: str,
    ) -> VersionRecord:
        """Say whether a version should be loaded, and pinned while it is; None leaves that as it is.

        Raises Conflict if it is retired, or if it should not be loaded and an alias points to it.
        """
        with changing(self._database, who, why) as change:
            record = read_version(change.connection, name, version)
            if record.retired and (loaded or pinned):
                raise Conflict(f"{record.id} is retired: restore it first")
            if loaded is False:
                change.refuse_if_pointed_to(record)
            if loaded is not None and loaded != record.loaded:
                change.set_state(record, loaded=loaded)
                change.record("load" if loaded else "unload", name, version)
            if pinned is not None and pinned != record.pinned:
                change.set_state(record, pinned=pinned)
                change.record("pin" if pinned else "unpin", name, version)
            return read_version(change.connection, name, version)

    def retire(self, name: str, version: str, *, who: str, why: str) -> VersionRecord:
        """Take a version out of service, and keep it: it is not loaded, and nothing can point to it.

        Raises Conflict while an alias does.
        """
        with changing(self._database, who, why) as change:
            record = read_version(change.connection, name, version)
            change.refuse_if_pointed_to(record)
            if not record.retired:
                change.set_state(record, retired=True, loaded=False, pinned=False)
                change.record("retire", name, version)
            return read_version(change.connection, name, version)

    def restore(self, name: str, version: str, *, who: str, why: str) -> VersionRecord:
        """Take a retired version back; it is not loaded yet."""
        with changing(self._database, who, why) as change:
            record = read_version(change.connection, name, version)
            if record.retired:
                change.set_state(record, retired=False)
                change.record("restore", name, version)
            return read_version(change.connection, name, version)

    def delete(self, name: str, version: str, *, who: str, why: str) -> None:
        """Forget a retired version and its reports; the history stays. Raises Conflict if not retired."""
        with changing(self._database, who, why) as change:
            record = read_version(change.connection, name, version)
            if not record.retired:
                raise Conflict(f"{record.id} is not retired: retire it first")
            change.connection.execute(sa.delete(versions).filter_by(name=name, version=version))
            change.record("delete", name, version)

    # Aliases

    def point(
        self,
        name: str,
        alias: str,
        version: str,
        *,
        share: float | None = None,
        expected: Expected = ANY,
        who: str,
        why: str,
    ) -> AliasRecord:
        """Point `alias` at a version, with a share of the bare name's traffic, or (None) without one.

        Raises Conflict if it does not point to what is `expected` now, if the version is retired, or if
        nothing would be left for `prod`.
        """
        checks.check_alias(alias)
        checks.check_share(alias, share)
        with changing(self._database, who, why) as change:
            return registry_aliases.point(change, name, alias, version, share, expected)

    def drop(self, name: str, alias: str, *, expected: Expected = ANY, who: str, why: str) -> None:
        """Forget an alias. Raises Conflict if it does not point to what is `expected`."""
        with changing(self._database, who, why) as change:
            registry_aliases.drop(change, name, alias, expected)

    def promote(
        self, name: str, *, alias: str = "canary", expected: Expected = ANY, who: str, why: str
    ) -> AliasRecord:
        """Make `prod` what `alias` points to, and forget `alias`; returns `prod`.

        Raises Conflict if `alias` does not point to what is `expected`.
        """
        with changing(self._database, who, why) as change:
            return registry_aliases.promote(change, name, alias, expected)

    def rollback(
        self, name: str, *, to: str | None = None, expected: Expected = ANY, who: str, why: str
    ) -> AliasRecord:
        """Give all of the bare name's traffic back to what had it before; returns `prod`.

        While aliases take shares of it, their shares end, and `prod` stays. Else `prod` goes to the version
        that it meant before the present one (repeated: further back, never to and fro), skipping what is
        retired or deleted. With `to`, shares end and `prod` goes there. Raises Conflict if there is nothing
        to go back to, if `to` is retired, or if `prod` does not point to what is `expected`.
        """
        with changing(self._database, who, why) as change:
            return registry_aliases.rollback(change, name, to, expected)

    # Compositions

    def evaluate_composition(
        self,
        spec: str,
        agents: Sequence[str],
        report: Mapping[str, Any],
        *,
        approved: bool,
        who: str,
        why: str = "",
    ) -> CompositionRecord:
        """Keep how the composition `spec` did against each of `agents` (names, or ids) alone, in place of
        what
        was known before; `approved` lets the router choose it."""
        checks.check_spec(spec)
        for agent in agents:
            checks.check_agent(agent)
        content = checks.checked_report(report)
        with changing(self._database, who, why) as change:
            known = {record.spec: record for record in read_compositions(change.connection)}
            before = _approved(known[spec].approved) if spec in known else None
            change.connection.execute(sa.delete(compositions).filter_by(spec=spec))
            row = {"spec": spec, "agents": list(agents), "approved": approved}
            found = {"at": change.at, "by": who, "report": content}
            change.connection.execute(sa.insert(compositions).values(row | found))
            change.record("evaluate", spec, before=before, after=_approved(approved))
            return CompositionRecord(spec, tuple(agents), approved, Report(change.at, who, content))


def _forced(refusal: str | None) -> str | None:
    return None if refusal is None else "forced"


def _approved(approved: bool) -> str:
    return "approved" if approved else "not approved"
