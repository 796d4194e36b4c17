"""The registry's tables. What creates them is in `migrations/`; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator

SCHEMA_TABLE = "registry_schema"
"""Alembic's own: which revision of the schema this is. Another program may keep its tables beside ours."""

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


class UtcTime(TypeDecorator[datetime]):
    """A moment, in UTC both ways. SQLite keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


state = Table(
    "registry_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)
"""One row. Whoever changes anything locks it first, so that changes happen one after the other."""

versions = Table(
    "registry_versions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("rank", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("description", Text, nullable=False),
    Column("examples", JSON, nullable=False),
    Column("probes", JSON, nullable=False),
    Column("base_model", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("refusal", Text),
    Column("loaded", Boolean, nullable=False),
    Column("pinned", Boolean, nullable=False),
    Column("retired", Boolean, nullable=False),
    Column("added_at", UtcTime, nullable=False),
    Column("added_by", Text, nullable=False),
    CheckConstraint("NOT (retired AND (loaded OR pinned))", name="retired_is_not_loaded"),
)

reports = Table(
    "registry_reports",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("by", Text, nullable=False),
    Column("content", JSON, nullable=False),
    ForeignKeyConstraint(
        ["name", "version"], ["registry_versions.name", "registry_versions.version"], ondelete="CASCADE"
    ),
)

aliases = Table(
    "registry_aliases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("share", Double),
    ForeignKeyConstraint(["name", "version"], ["registry_versions.name", "registry_versions.version"]),
    CheckConstraint("share > 0 AND share < 1", name="share"),
)

compositions = Table(
    "registry_compositions",
    metadata,
    Column("spec", Text, primary_key=True),
    Column("agents", JSON, nullable=False),
    Column("approved", Boolean, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("by", Text, nullable=False),
    Column("report", JSON, nullable=False),
)

history = Table(
    "registry_history",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Text),
    Column("alias", Text),
    Column("before", Text),
    Column("after", Text),
    Index(None, "name", "id"),
)
"""Names no version by foreign key: it outlives them."""

access_state = Table(
    "access_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)
"""As `registry_state`, of who may do what."""

api_keys = Table(
    "access_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("agents", JSON(none_as_null=True)),
    Column("tier", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", UtcTime),
    Column("revoked_at", UtcTime),
    Column("last_used_at", UtcTime),
)
"""What a key is good for. The key itself is nowhere: `digest` is its SHA-256."""

revoked_tokens = Table(
    "access_revoked_tokens",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("jti", Text, primary_key=True),
    Column("revoked_at", UtcTime, nullable=False),
    Column("revoked_by", Text, nullable=False),
    Column("expires_at", UtcTime),
)
"""Tokens that are refused before they expire; a row goes some time after its token has."""

audit = Table(
    "access_audit",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("at", UtcTime, nullable=False),
    Column("who", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", JSON, nullable=False),
)
"""Administrative acts. Triggers refuse to change or remove a row; changes of the fleet are in `history`."""

files = Table(
    "batch_files",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Index(None, "tenant", "created_at", "id"),
)
"""What files are; what is in them lies in the store of files, under their id."""

batches = Table(
    "batch_jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("caller", JSON, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("input_file_id", Text, nullable=False),
    Column("output_file_id", Text),
    Column("error_file_id", Text),
    Column("output_seconds", BigInteger),
    Column("labels", JSON(none_as_null=True)),
    Column("status", Text, nullable=False),
    Column("errors", JSON(none_as_null=True)),
    Column("n_requests", Integer, nullable=False),
    Column("n_completed", Integer, nullable=False),
    Column("n_failed", Integer, nullable=False),
    Column("n_input_tokens", BigInteger, nullable=False),
    Column("n_output_tokens", BigInteger, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("in_progress_at", UtcTime),
    Column("finalizing_at", UtcTime),
    Column("cancelling_at", UtcTime),
    Column("ended_at", UtcTime),
    Column("holder", Text),
    Column("held_until", UtcTime),
    Index(None, "tenant", "created_at", "id"),
    Index(None, "ended_at"),
)
"""`holder` is the gateway that runs it, until `held_until` unless it says again that it does."""

batch_results = Table(
    "batch_results",
    metadata,
    Column("batch_id", Text, primary_key=True),
    Column("line", Integer, primary_key=True, autoincrement=False),
    Column("is_error", Boolean, nullable=False),
    Column("content", Text, nullable=False),
    ForeignKeyConstraint(["batch_id"], ["batch_jobs.id"], ondelete="CASCADE"),
)
"""The checkpoint of a batch that has not ended: one row for each request that has its answer."""
