"""One change of the registry: what it writes, and what the history says of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from adaptive_lora.adapters.records import Action, VersionRecord
from adaptive_lora.adapters.registry_checks import check_who, check_why
from adaptive_lora.adapters.registry_database import Database
from adaptive_lora.adapters.registry_rows import read_aliases, read_revision
from adaptive_lora.adapters.registry_tables import history, state, versions
from adaptive_lora.errors import Conflict


class Change:
    """A transaction that no other change runs beside. Without an entry for the history it is none."""

    def __init__(self, connection: Connection, revision: int, who: str, why: str) -> None:
        self.connection = connection
        self.at = datetime.now(UTC)
        self.who = who
        self._why = why
        self._revision = revision
        self._entries: list[dict[str, Any]] = []

    def record(
        self,
        action: Action,
        name: str,
        version: str | None = None,
        *,
        alias: str | None = None,
        before: str | None = None,
        after: str | None = None,
    ) -> None:
        """Add an entry to the history."""
        said = {"revision": self._revision, "at": self.at, "who": self.who, "why": self._why}
        what = {"action": action, "name": name, "version": version, "alias": alias}
        self._entries.append(said | what | {"before": before, "after": after})

    def set_state(self, record: VersionRecord, **columns: bool) -> None:
        """Change what is declared about a version."""
        where = (versions.c.name == record.name, versions.c.version == record.version)
        self.connection.execute(sa.update(versions).where(*where).values(columns))

    def refuse_if_pointed_to(self, record: VersionRecord) -> None:
        """Raises Conflict that names the aliases."""
        aliases = [a.alias for a in read_aliases(self.connection, record.name) if a.version == record.version]
        if aliases:
            raise Conflict(
                f"{record.id} is what {' and '.join(map(repr, aliases))} of {record.name!r} "
                f"{'means' if len(aliases) == 1 else 'mean'}: point that elsewhere, or drop it, first"
            )

    def finish(self) -> None:
        """Write the entries and the revision, if anything has changed."""
        if not self._entries:
            return
        # Changes come one after the other, so the next number is free. A sequence would leave gaps.
        last = self.connection.scalars(sa.select(sa.func.coalesce(sa.func.max(history.c.id), 0))).one()
        for number, entry in enumerate(self._entries, last + 1):
            entry["id"] = number
        self.connection.execute(sa.insert(history), self._entries)
        self.connection.execute(sa.update(state).values(revision=self._revision))


@contextmanager
def changing(database: Database, who: str, why: str) -> Iterator[Change]:
    """A change by `who`; all of it is made, or nothing if an exception is raised."""
    check_who(who)
    check_why(why)
    with database.transaction(change=True) as connection:
        change = Change(connection, read_revision(connection, lock=True) + 1, who, why)
        yield change
        change.finish()
