"""Which batches there are, and how far they are: what callers see and ask for. Who runs them is in
`run_store`. All methods block, and raise RegistryUnavailable as the registry's do."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from adaptive_lora.adapters.registry_database import Database
from adaptive_lora.adapters.registry_tables import batches, files
from adaptive_lora.batches.database import lock_quotas, read_page
from adaptive_lora.batches.records import UNFINISHED, Batch, NewBatch, Page, new_batch_id
from adaptive_lora.errors import Conflict, InvalidRequest, NotFound, QuotaExceeded

MAX_BATCHES: Final = 10_000
"""Of one tenant: beyond it the oldest that have ended are forgotten before their time."""

_NOT_SHOWN = frozenset({"holder", "held_until"})


class BatchStore:
    """Thread-safe; other processes may use the same database. Times are the callers' clocks'."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, new: NewBatch, *, now: datetime, max_unfinished: int) -> Batch:
        """A batch that waits to be run. Raises InvalidRequest if its input is no file for batches of its
        tenant, QuotaExceeded if the tenant has `max_unfinished` already."""
        batch_id = new_batch_id()
        row = {
            "id": batch_id,
            "tenant": new.tenant,
            "caller": dict(new.caller),
            "endpoint": new.endpoint,
            "input_file_id": new.input_file_id,
            "output_seconds": new.output_seconds,
            "labels": None if new.labels is None else dict(new.labels),
            "status": "validating",
            "n_requests": 0,
            "n_completed": 0,
            "n_failed": 0,
            "n_input_tokens": 0,
            "n_output_tokens": 0,
            "created_at": now,
            "expires_at": new.expires_at,
        }
        with self._database.transaction(change=True) as connection:
            lock_quotas(connection)
            source = sa.select(files.c.purpose).filter_by(tenant=new.tenant, id=new.input_file_id)
            purpose = connection.scalars(source.where(files.c.expires_at > now)).first()
            if purpose is None:
                raise InvalidRequest("input_file_id: there is no file with this id")
            if purpose != "batch":
                raise InvalidRequest(f"input_file_id: a file of purpose {purpose!r} is no batch's input")
            mine = (batches.c.tenant == new.tenant, batches.c.status.in_(UNFINISHED))
            n_unfinished = connection.scalars(sa.select(sa.func.count(batches.c.id)).where(*mine)).one()
            if n_unfinished >= max_unfinished:
                raise QuotaExceeded(
                    f"{n_unfinished} batches of yours have not ended, and {max_unfinished} may be so "
                    "at a time (batches.max_unfinished): wait for one, or cancel one"
                )
            _make_room(connection, new.tenant)
            connection.execute(sa.insert(batches).values(row))
            return read_batch(connection, batch_id)

    def get(self, tenant: str, batch_id: str) -> Batch:
        """Raises NotFound, also for another tenant's."""
        with self._database.transaction() as connection:
            return read_batch(connection, batch_id, tenant)

    def list(self, tenant: str, *, limit: int, after: str | None = None) -> Page[Batch]:
        """Newest first. Raises InvalidRequest if `after` is none of the tenant's."""
        with self._database.transaction() as connection:
            return read_page(connection, batches, tenant, make_batch, limit=limit, after=after)

    def cancel(self, tenant: str, batch_id: str, *, now: datetime) -> Batch:
        """Ask for its end: whoever runs it stops. Raises NotFound, and Conflict if it has ended or is about
        to; what is cancelled already stays so."""
        with self._database.transaction(change=True) as connection:
            runs = (
                batches.c.id == batch_id,
                batches.c.tenant == tenant,
                batches.c.status.in_(("validating", "in_progress")),
            )
            change = {"status": "cancelling", "cancelling_at": now}
            changed = connection.execute(sa.update(batches).where(*runs).values(change)).rowcount
            batch = read_batch(connection, batch_id, tenant)
        if not changed and batch.status not in ("cancelling", "cancelled"):
            raise Conflict(f"the batch is {batch.status}: it cannot be cancelled any more")
        return batch

    def forget_ended(self, *, before: datetime) -> int:
        """Remove batches that ended before then. Returns how many."""
        with self._database.transaction(change=True) as connection:
            return connection.execute(sa.delete(batches).where(batches.c.ended_at < before)).rowcount


def _make_room(connection: Connection, tenant: str) -> None:
    """For one more."""
    mine = batches.c.tenant == tenant
    n_beyond = connection.scalars(sa.select(sa.func.count(batches.c.id)).where(mine)).one() - MAX_BATCHES + 1
    if n_beyond > 0:
        ended = sa.select(batches.c.id).where(mine, batches.c.ended_at.is_not(None))
        oldest = ended.order_by(batches.c.created_at, batches.c.id).limit(n_beyond)
        connection.execute(sa.delete(batches).where(batches.c.id.in_(oldest)))


def read_batch(connection: Connection, batch_id: str, tenant: str | None = None) -> Batch:
    """Raises NotFound; also for another tenant's, if one is given."""
    query = sa.select(batches).where(batches.c.id == batch_id)
    if tenant is not None:
        query = query.where(batches.c.tenant == tenant)
    row = connection.execute(query).first()
    if row is None:
        raise NotFound("there is no batch with this id")
    return make_batch(row)


def make_batch(row: Row[Any]) -> Batch:
    columns = {name: value for name, value in row._mapping.items() if name not in _NOT_SHOWN}
    columns["errors"] = None if row.errors is None else tuple(row.errors)
    return Batch(**columns)
