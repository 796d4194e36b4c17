"""Who runs a batch, and what is done of it: leases, the checkpoint, the end.

A gateway claims a batch for a while and says again and again that it still runs it. When it no longer does,
another may claim it, and goes on from the checkpoint. Every write names its holder and fails with LeaseLost
once somebody else is: a gateway that was frozen, or whose clock is wrong, loses work and writes nothing.

All methods block, and raise RegistryUnavailable as the registry's do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from adaptive_lora.adapters.registry_database import Database
from adaptive_lora.adapters.registry_tables import batch_results, batches, files
from adaptive_lora.batches.batch_store import make_batch, read_batch
from adaptive_lora.batches.records import UNFINISHED, Batch, Result, Status, StoredFile

CANDIDATES: Final = 256
OF_A_TENANT: Final = 8
"""Batches that one look considers, in all and of one tenant."""
PAGE: Final = 256
"""Results that are read at a time."""

Ending = Literal["completed", "failed", "expired", "cancelled"]


class LeaseLost(Exception):
    """Another gateway runs the batch, or it is gone."""


class RunStore:
    """Thread-safe; other processes may use the same database. Times are the callers' clocks'."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def candidates(self, *, now: datetime, beside: Collection[str] = ()) -> tuple[Batch, ...]:
        """Batches that nobody runs, oldest first, a few of each tenant. Of the tenants `beside` only those
        that have but to be ended: cancelled, or past their time."""
        free = sa.or_(batches.c.held_until.is_(None), batches.c.held_until < now)
        wanted = sa.or_(
            batches.c.tenant.not_in(beside), batches.c.status == "cancelling", batches.c.expires_at <= now
        )
        age = (batches.c.created_at, batches.c.id)
        place = sa.func.row_number().over(partition_by=batches.c.tenant, order_by=age)
        ranked = (
            sa.select(batches.c.id, place.label("place"))
            .where(batches.c.status.in_(UNFINISHED), free, wanted)
            .subquery()
        )
        query = (
            sa.select(batches)
            .join(ranked, ranked.c.id == batches.c.id)
            .where(ranked.c.place <= OF_A_TENANT)
            .order_by(*age)
            .limit(CANDIDATES)
        )
        with self._database.transaction() as connection:
            return tuple(make_batch(row) for row in connection.execute(query))

    def claim(self, batch_id: str, holder: str, *, now: datetime, until: datetime) -> Batch | None:
        """Run it from now on. None if somebody else does already."""
        free = sa.or_(batches.c.held_until.is_(None), batches.c.held_until < now)
        with self._database.transaction(change=True) as connection:
            where = (batches.c.id == batch_id, batches.c.status.in_(UNFINISHED), free)
            change = {"holder": holder, "held_until": until}
            if not connection.execute(sa.update(batches).where(*where).values(change)).rowcount:
                return None
            return read_batch(connection, batch_id)

    def hold(self, batch_id: str, holder: str, *, until: datetime) -> Batch:
        """Say that it still runs. Returns it as it is now: it may have been cancelled. Raises LeaseLost."""
        return self._change(batch_id, holder, {"held_until": until})

    def release(self, batch_id: str, holder: str) -> None:
        """Let others run it at once. Nothing happens if they do."""
        with self._database.transaction(change=True) as connection:
            where = (batches.c.id == batch_id, batches.c.holder == holder)
            connection.execute(sa.update(batches).where(*where).values(holder=None, held_until=None))

    def advance(
        self, batch_id: str, holder: str, before: Status, after: Status, *, now: datetime, n_requests: int
    ) -> Batch:
        """From the status `before` to `after`, "in_progress" or "finalizing"; a batch of another status,
        which a caller has cancelled, stays as it is. Raises LeaseLost."""
        change = {"status": after, f"{after}_at": now, "n_requests": n_requests}
        return self._change(batch_id, holder, change, status=before)

    def done(self, batch_id: str) -> frozenset[int]:
        """Lines that have their answer."""
        query = sa.select(batch_results.c.line).filter_by(batch_id=batch_id)
        with self._database.transaction() as connection:
            return frozenset(connection.scalars(query))

    def record(self, batch_id: str, holder: str, results: Sequence[Result]) -> None:
        """Add answers to the checkpoint, for good, all or none. Raises LeaseLost."""
        rows = [
            {"batch_id": batch_id, "line": each.line, "is_error": each.is_error, "content": each.content}
            for each in results
        ]
        n_failed = sum(each.is_error for each in results)
        more = {
            "n_completed": len(results) - n_failed,
            "n_failed": n_failed,
            "n_input_tokens": sum(each.n_input_tokens for each in results),
            "n_output_tokens": sum(each.n_output_tokens for each in results),
        }
        change = {name: batches.c[name] + n for name, n in more.items()}
        with self._database.transaction(change=True) as connection:
            _update_held(connection, batch_id, holder, change)
            connection.execute(sa.insert(batch_results), rows)

    def results(self, batch_id: str, *, is_error: bool) -> Iterator[tuple[int, str]]:
        """Lines and their answers, in the order of the lines; read page by page."""
        table = batch_results.c
        query = sa.select(table.line, table.content).filter_by(batch_id=batch_id, is_error=is_error)
        last = -1
        while True:
            with self._database.transaction() as connection:
                page = query.where(table.line > last).order_by(table.line).limit(PAGE)
                rows = connection.execute(page).all()
            for row in rows:
                yield row.line, row.content
                last = row.line
            if len(rows) < PAGE:
                return

    def end(
        self,
        batch_id: str,
        holder: str,
        ending: Ending,
        *,
        now: datetime,
        n_requests: int,
        n_failed: int,
        errors: Sequence[Mapping[str, Any]] | None = None,
        output: StoredFile | None = None,
        error_file: StoredFile | None = None,
    ) -> None:
        """The end: its files, whose content is put, are seen from now on; the checkpoint goes. `n_failed`
        counts what was not answered, too. Raises LeaseLost."""
        change = {
            "status": ending,
            "ended_at": now,
            "errors": None if errors is None else [dict(error) for error in errors],
            "n_requests": n_requests,
            "n_failed": n_failed,
            "output_file_id": output and output.id,
            "error_file_id": error_file and error_file.id,
            "holder": None,
            "held_until": None,
        }
        with self._database.transaction(change=True) as connection:
            _update_held(connection, batch_id, holder, change)
            for file in filter(None, (output, error_file)):
                where = files.c.id == file.id
                connection.execute(sa.update(files).where(where).values(expires_at=file.expires_at))
            connection.execute(sa.delete(batch_results).where(batch_results.c.batch_id == batch_id))

    def _change(
        self, batch_id: str, holder: str, change: Mapping[str, Any], *, status: Status | None = None
    ) -> Batch:
        with self._database.transaction(change=True) as connection:
            where = [batches.c.id == batch_id, batches.c.holder == holder]
            if status is not None:
                where.append(batches.c.status == status)
            connection.execute(sa.update(batches).where(*where).values(dict(change)))
            held = sa.select(batches).where(batches.c.id == batch_id, batches.c.holder == holder)
            row = connection.execute(held).first()
            if row is None:
                raise LeaseLost
            return make_batch(row)


def _update_held(connection: Connection, batch_id: str, holder: str, change: Mapping[str, Any]) -> None:
    where = (batches.c.id == batch_id, batches.c.holder == holder)
    if not connection.execute(sa.update(batches).where(*where).values(dict(change))).rowcount:
        raise LeaseLost
