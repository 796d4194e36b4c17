"""What the stores of this room share: the lock of quotas, and pages of a list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from adaptive_lora.batches.records import Page
from adaptive_lora.errors import InvalidRequest

T = TypeVar("T")

_QUOTA_LOCK: Final = 0x42617463
"""Of PostgreSQL's advisory locks: the number is ours, "Batc" in ASCII."""


def lock_quotas(connection: Connection) -> None:
    """Until the transaction's end nobody else adds to what tenants keep. On SQLite no change has company."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_QUOTA_LOCK)))


def read_page(
    connection: Connection,
    table: sa.Table,
    tenant: str,
    make: Callable[[Row[Any]], T],
    *,
    limit: int,
    after: str | None,
    where: sa.ColumnElement[bool] | None = None,
    oldest_first: bool = False,
) -> Page[T]:
    """At most `limit` of the tenant's rows, by age: those that come after the row with the id `after`.
    Raises InvalidRequest if there is none."""
    place = sa.tuple_(table.c.created_at, table.c.id)
    query = sa.select(table).where(table.c.tenant == tenant)
    if where is not None:
        query = query.where(where)
    if after is not None:
        cursor = sa.select(table.c.created_at, table.c.id).filter_by(tenant=tenant, id=after)
        row = connection.execute(cursor).first()
        if row is None:
            raise InvalidRequest("after: there is nothing with this id")
        here = sa.tuple_(sa.literal(row.created_at, table.c.created_at.type), sa.literal(row.id))
        query = query.where(place > here if oldest_first else place < here)
    order = [column.asc() if oldest_first else column.desc() for column in (table.c.created_at, table.c.id)]
    rows = connection.execute(query.order_by(*order).limit(limit + 1)).all()
    return Page(tuple(make(row) for row in rows[:limit]), has_more=len(rows) > limit)
