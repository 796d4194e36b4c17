"""Which files there are, and whose. All methods block, and raise RegistryUnavailable as the registry's do.

A file is a draft, which nobody sees, until its content lies where it belongs; and again from the moment when
it expires or is withdrawn until its content is gone. So whatever a process that dies leaves behind is known,
and `overdue` after a while:

    draft ─▶ content put ─▶ published ─▶ expired, or withdrawn ─▶ content deleted ─▶ forgotten
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Row

from adaptive_lora.adapters.registry_database import Database
from adaptive_lora.adapters.registry_tables import batches, files
from adaptive_lora.batches.database import lock_quotas, read_page
from adaptive_lora.batches.records import UNFINISHED, Page, Purpose, StoredFile
from adaptive_lora.errors import Conflict, NotFound, QuotaExceeded

MAX_FILES: Final = 10_000
"""Of one tenant: as many as OpenAI lists on a page."""
DRAFT_GRACE: Final = timedelta(hours=1)
"""Longer than putting a content can take, and than clocks differ."""


class FileStore:
    """Thread-safe; other processes may use the same database. Times are the callers' clocks'."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def draft(self, file: StoredFile, *, max_bytes: int | None = None) -> None:
        """Announce a file whose content will be put. Raises QuotaExceeded if its tenant's files would have
        more than `max_bytes` with it; a gateway's own outputs are never refused."""
        row = asdict(file) | {"expires_at": file.created_at}
        with self._database.transaction(change=True) as connection:
            lock_quotas(connection)
            if max_bytes is not None:
                kept = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(files.c.size_bytes), 0))
                n_files, n_bytes = connection.execute(kept.where(files.c.tenant == file.tenant)).one()
                if n_bytes + file.size_bytes > max_bytes:
                    raise QuotaExceeded(
                        f"your files have {n_bytes} bytes, this one {file.size_bytes}, and {max_bytes} are "
                        "allowed in all (batches.max_stored_bytes): delete some"
                    )
                if n_files >= MAX_FILES:
                    raise QuotaExceeded(f"you have {MAX_FILES} files, which is the limit: delete some")
            connection.execute(sa.insert(files).values(row))

    def publish(self, file: StoredFile) -> None:
        """Its content is there: from now on it is seen."""
        with self._database.transaction(change=True) as connection:
            where = files.c.id == file.id
            connection.execute(sa.update(files).where(where).values(expires_at=file.expires_at))

    def get(self, tenant: str, file_id: str, *, now: datetime) -> StoredFile:
        """Raises NotFound, also for another tenant's."""
        query = sa.select(files).where(files.c.tenant == tenant, files.c.id == file_id)
        with self._database.transaction() as connection:
            row = connection.execute(query.where(files.c.expires_at > now)).first()
        if row is None:
            raise NotFound("there is no file with this id")
        return _file(row)

    def size_of(self, file_id: str) -> int:
        """In bytes; also of a file that has expired while a batch reads it. Raises NotFound."""
        with self._database.transaction() as connection:
            size = connection.scalars(sa.select(files.c.size_bytes).where(files.c.id == file_id)).first()
        if size is None:
            raise NotFound("there is no file with this id")
        return int(size)

    def list(
        self,
        tenant: str,
        *,
        now: datetime,
        limit: int,
        after: str | None = None,
        purpose: Purpose | None = None,
        oldest_first: bool = False,
    ) -> Page[StoredFile]:
        """Raises InvalidRequest if `after` is none of the tenant's."""
        where = files.c.expires_at > now
        if purpose is not None:
            where = sa.and_(where, files.c.purpose == purpose)
        with self._database.transaction() as connection:
            return read_page(
                connection,
                files,
                tenant,
                _file,
                limit=limit,
                after=after,
                where=where,
                oldest_first=oldest_first,
            )

    def withdraw(self, tenant: str, file_id: str, *, now: datetime) -> None:
        """From now on nobody sees it. Raises NotFound; Conflict while a batch has still to read it."""
        with self._database.transaction(change=True) as connection:
            lock_quotas(connection)
            mine = (files.c.tenant == tenant, files.c.id == file_id, files.c.expires_at > now)
            if connection.execute(sa.select(files.c.id).where(*mine)).first() is None:
                raise NotFound("there is no file with this id")
            reader = connection.scalars(_readers().where(batches.c.input_file_id == file_id)).first()
            if reader is not None:
                raise Conflict(f"{reader} has still to read this file: cancel it first, or wait for its end")
            connection.execute(sa.update(files).where(*mine).values(expires_at=now))

    def overdue(self, *, now: datetime, limit: int = 100) -> tuple[str, ...]:
        """Ids of files whose content should go: nobody sees them any more, and no batch reads them."""
        query = (
            sa.select(files.c.id)
            .where(files.c.expires_at < now - DRAFT_GRACE)
            .where(files.c.id.not_in(sa.select(batches.c.input_file_id).where(_is_unfinished())))
            .order_by(files.c.expires_at)
            .limit(limit)
        )
        with self._database.transaction() as connection:
            return tuple(connection.scalars(query))

    def forget(self, file_id: str) -> None:
        """Its content is gone."""
        with self._database.transaction(change=True) as connection:
            connection.execute(sa.delete(files).where(files.c.id == file_id))

    def known(self, file_ids: Collection[str]) -> frozenset[str]:
        """Those of them that have a record, drafts included."""
        with self._database.transaction() as connection:
            return frozenset(connection.scalars(sa.select(files.c.id).where(files.c.id.in_(file_ids))))


def _is_unfinished() -> sa.ColumnElement[bool]:
    return batches.c.status.in_(UNFINISHED)


def _readers() -> sa.Select[Any]:
    return sa.select(batches.c.id).where(_is_unfinished())


def _file(row: Row[Any]) -> StoredFile:
    return StoredFile(**row._mapping)
