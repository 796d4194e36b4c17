"""The tables as files and back, between any two kinds of database.

They are dumped in one read transaction, which holds up nobody, and loaded in one transaction. Not by the
database's own tool: that would tie a backup to a kind and a version, and would have to be installed wherever
backups run.
"""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from adaptive_lora.adapters.durable import disk_errors
from adaptive_lora.adapters.registry_database import Database
from adaptive_lora.adapters.registry_schema import (
    changing_schema,
    drop_tables,
    release_schema,
    schema_of,
    upgrade,
)
from adaptive_lora.adapters.registry_tables import (
    UtcTime,
    access_state,
    batches,
    files,
    metadata,
    state,
    versions,
)
from adaptive_lora.batches.records import UNFINISHED
from adaptive_lora.errors import Conflict, SettingsError, StorageError

ROWS_AT_ONCE: Final = 1_000
PIECE_ROWS: Final = 10_000
PIECE_CHARS: Final = 32_000_000
"""What ends a piece. Of what only grows, all but the last are the same in the next backup."""
TIMEOUT_S: Final = 600.0
"""For each statement."""
_ONE_ROW: Final = (state, access_state)
"""A new database has them, at revision 0."""


@dataclass(frozen=True, slots=True)
class Dumped:
    """The database at one moment."""

    moment: datetime
    """All that was committed before is in it."""
    schema_revision: str
    registry_revision: int
    access_revision: int
    pieces: Mapping[str, tuple[tuple[Path, int], ...]]
    """By table: files, and how many rows each has."""
    adapters: tuple[tuple[str, str], ...]
    """(name, version) of those whose files the store keeps."""
    files: tuple[tuple[str, int], ...]
    """(id, bytes) of those that callers see, or that a batch has still to read."""


def dump(database: Database, folder: Path) -> Dumped:
    """Write all rows below the new `folder`. Raises SettingsError unless the tables are this release's;
    RegistryUnavailable, StorageFull, StorageError."""
    moment = datetime.now(UTC)
    patient = database.patient(TIMEOUT_S)
    with disk_errors(folder):
        folder.mkdir()
    try:
        with patient.transaction() as connection:
            present, wanted = schema_of(connection), release_schema()
            if present != wanted:
                raise SettingsError(
                    f"{database} has the tables of another release (schema {present or 'none'}, this release "
                    f"has {wanted}): start this release's server once, or back up with that release"
                )
            stored = sa.select(versions.c.name, versions.c.version).where(versions.c.origin == "store")
            read = sa.select(batches.c.input_file_id).where(batches.c.status.in_(UNFINISHED))
            needed = sa.or_(files.c.expires_at > moment, files.c.id.in_(read))
            kept = sa.select(files.c.id, files.c.size_bytes).where(needed)
            return Dumped(
                moment,
                wanted,
                connection.scalars(sa.select(state.c.revision)).one(),
                connection.scalars(sa.select(access_state.c.revision)).one(),
                {table.name: tuple(_write(connection, table, folder)) for table in metadata.sorted_tables},
                tuple((row.name, row.version) for row in connection.execute(stored)),
                tuple((row.id, row.size_bytes) for row in connection.execute(kept)),
            )
    finally:
        patient.close()


def check_empty(database: Database) -> None:
    """Raises Conflict if anything is kept there."""
    with database.transaction() as connection:
        if not _is_empty(connection):
            raise Conflict(
                f"{database} is not empty: restore into an empty one, or give --replace, which forgets all "
                "that it keeps"
            )


def load(
    database: Database, schema_revision: str, rows_of: Mapping[str, Iterable[bytes]], *, replace: bool
) -> None:
    """Make the database what was dumped: all of it, or nothing happens. `rows_of` has the pieces of each
    table.

    Raises Conflict unless it is empty or to be replaced; SettingsError if a later release has made the dump;
    RegistryUnavailable, and what reading the pieces raises.
    """
    patient = database.patient(TIMEOUT_S)
    try:
        with changing_schema(patient) as connection:
            if not replace and not _is_empty(connection):
                raise Conflict(f"{database} is not empty any more: somebody uses it")
            drop_tables(connection)
            # First the tables as they were, so that later migrations find rows as they expect them.
            upgrade(connection, schema_revision)
            for table in _ONE_ROW:
                if table.name in rows_of:
                    connection.execute(sa.delete(table))
            for table in metadata.sorted_tables:
                for piece in rows_of.get(table.name, ()):
                    _insert(connection, table, piece)
            upgrade(connection, release_schema())
    finally:
        patient.close()


def _is_empty(connection: Connection) -> bool:
    present = set(sa.inspect(connection).get_table_names())
    for table in metadata.sorted_tables:
        if table.name not in present:
            continue
        if table in _ONE_ROW:
            if connection.scalars(sa.select(table.c.revision)).first():
                return False
        elif connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first():
            return False
    return True


def _write(connection: Connection, table: sa.Table, folder: Path) -> Iterator[tuple[Path, int]]:
    rows = connection.execute(
        sa.select(table).order_by(*table.primary_key.columns), execution_options={"yield_per": ROWS_AT_ONCE}
    )
    lines = (_line(row._asdict()) for row in rows)
    for number in itertools.count():
        path = folder / f"{table.name}-{number}.jsonl.gz"
        n_rows = n_chars = 0
        with disk_errors(path), path.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
            for line in lines:
                file.write(line)
                n_rows, n_chars = n_rows + 1, n_chars + len(line)
                if n_rows == PIECE_ROWS or n_chars > PIECE_CHARS:
                    break
        if not n_rows:
            path.unlink()
            return
        yield path, n_rows


def _line(row: Mapping[str, Any]) -> bytes:
    values = {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()
    }
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def _insert(connection: Connection, table: sa.Table, piece: bytes) -> None:
    moments = {column.name for column in table.columns if isinstance(column.type, UtcTime)}
    try:
        rows = [json.loads(line) for line in gzip.decompress(piece).split(b"\n") if line]
        for row in rows:
            for name in moments & row.keys():
                row[name] = None if row[name] is None else datetime.fromisoformat(row[name])
    except (ValueError, OSError, EOFError, zlib.error, AttributeError, TypeError) as error:
        raise StorageError(f"the rows of {table.name} in the backup cannot be read") from error
    for start in range(0, len(rows), ROWS_AT_ONCE):
        connection.execute(sa.insert(table), rows[start : start + ROWS_AT_ONCE])
