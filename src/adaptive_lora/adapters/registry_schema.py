"""Bringing a registry's tables to this release: Alembic's migrations, run by the program itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import exc
from sqlalchemy.engine import Connection
from sqlalchemy.schema import DropTable

from adaptive_lora.adapters.registry_database import Database, said
from adaptive_lora.adapters.registry_tables import SCHEMA_TABLE, metadata
from adaptive_lora.errors import SettingsError

_log = logging.getLogger(__name__)

MIGRATIONS: Final = Path(__file__).parent / "migrations"
MIGRATION_TIMEOUT_S = 300.0
"""For a migration, and for waiting until another process has done it."""

_MIGRATION_LOCK: Final = 0x4C6F5241
"""Of PostgreSQL's advisory locks: the number is ours, "LoRA" in ASCII."""
_one_in_this_process = threading.Lock()
"""Alembic keeps in a module what it works on."""


def open_database(url: str, *, timeout_s: float = 5.0) -> Database:
    """Open `url` (postgresql:// or sqlite:///), and bring its tables forward to this release. Blocks.

    `timeout_s` bounds each wait: for a connection, for others' changes, for an answer. Raises SettingsError
    for a URL that cannot be used and for a database that a later release has opened; RegistryUnavailable.
    """
    database = Database(url, timeout_s=timeout_s)
    try:
        migrate(database)
    except BaseException:
        database.close()
        raise
    return database


def migrate(database: Database) -> None:
    """Create the tables, or bring them forward. Any number of processes may do so at once: one does it.

    Raises SettingsError if it cannot be done, or if a later release has been here; RegistryUnavailable.
    """
    try:
        with database.transaction() as connection:
            if _is_current(connection, database):
                return
        patient = database.patient(MIGRATION_TIMEOUT_S)
        try:
            _run(patient)
        finally:
            patient.close()
    except exc.DBAPIError as error:
        raise SettingsError(f"the registry's tables cannot be made in {database}: {said(error)}") from error


def release_schema() -> str:
    """The schema of this release, as `schema_of` tells it."""
    head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    if head is None:
        raise RuntimeError(f"there are no migrations in {MIGRATIONS}")
    return head


def schema_of(connection: Connection) -> str | None:
    """Which schema the tables have; None if there are none."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of every context and plug-in
    return MigrationContext.configure(connection, opts={"version_table": SCHEMA_TABLE}).get_current_revision()


@contextmanager
def changing_schema(database: Database) -> Iterator[Connection]:
    """One transaction, in which nobody else changes anything of the schema: whoever is interrupted leaves
    the tables as they were."""
    with _one_in_this_process, database.transaction(change=True) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        yield connection


def upgrade(connection: Connection, revision: str) -> None:
    """Bring the tables forward to `revision`, within `changing_schema`. Raises SettingsError if this release
    does not know it."""
    known = {migration.revision for migration in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}
    if revision not in known:
        raise SettingsError(
            f"schema {revision} is of a later release (this one knows up to {release_schema()}): use that one"
        )
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def drop_tables(connection: Connection) -> None:
    """Remove all that migrations have made, with all that is in it, within `changing_schema`."""
    for table in reversed(metadata.sorted_tables):
        connection.execute(DropTable(table, if_exists=True))
    connection.execute(DropTable(sa.Table(SCHEMA_TABLE, sa.MetaData()), if_exists=True))
    if connection.dialect.name == "postgresql":  # a trigger's function outlives its table
        connection.execute(sa.text("DROP FUNCTION IF EXISTS access_audit_only_added_to()"))


def _run(database: Database) -> None:
    with changing_schema(database) as connection:
        if not _is_current(connection, database):
            upgrade(connection, release_schema())
            _log.info("the registry's tables are those of this release now: %s", database)


def _is_current(connection: Connection, database: Database) -> bool:
    """Whether the tables are those of this release. Raises SettingsError if they are a later one's."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of every context and plug-in
    script = ScriptDirectory(str(MIGRATIONS))
    head = script.get_current_head()
    known = {migration.revision for migration in script.walk_revisions()}
    context = MigrationContext.configure(connection, opts={"version_table": SCHEMA_TABLE})
    present = context.get_current_heads()
    if unknown := set(present) - known:
        raise SettingsError(
            f"{database} has been opened by a later release (schema {', '.join(sorted(unknown))}, this "
            f"release knows up to {head}): run that release, or restore a backup from before"
        )
    return present == (head,)
