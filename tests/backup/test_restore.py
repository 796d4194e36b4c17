"""What a restore refuses, what it replaces, and what it does with backups of other releases."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from adaptive_lora.adapters.registry import Registry
from adaptive_lora.adapters.registry_database import sqlite_url
from adaptive_lora.adapters.registry_schema import release_schema, schema_of
from adaptive_lora.adapters.registry_tables import metadata
from adaptive_lora.backup import tables
from adaptive_lora.backup.make import Made
from adaptive_lora.backup.repository import Repository
from adaptive_lora.backup.restore import restore
from adaptive_lora.backup.site import Site
from adaptive_lora.errors import AdaptiveLoraError, Conflict, HashMismatch, SettingsError
from tests.adapters.registry_releases import FOLDER, schemas

from .conftest import LiveSite, backed_up, files_of, rows_of, site_at

OTHER = "3f9c2a000009\n"


@pytest.fixture
def made(sqlite_live: LiveSite, plain: Repository) -> Made:
    return backed_up(sqlite_live.site, plain)


def test_a_database_that_is_in_use_is_refused_or_replaced(
    database_url: str, made: Made, sqlite_live: LiveSite, plain: Repository, tmp_path: Path
) -> None:
    other = LiveSite(site_at(tmp_path / "other", database_url), tmp_path)
    other.mint("somebody")
    before = other.snapshot()
    with pytest.raises(Conflict, match="is not empty: restore into an empty one, or give --replace"):
        restore(other.site, plain, made.backup)
    assert other.snapshot() == before
    restore(other.site, plain, made.backup, replace=True)
    assert other.snapshot() == sqlite_live.snapshot()
    other.mint("anew")


def test_a_database_that_a_server_has_only_opened_is_empty(
    database_url: str, made: Made, sqlite_live: LiveSite, plain: Repository, tmp_path: Path
) -> None:
    Registry.open(database_url).close()
    restored = site_at(tmp_path / "restored", database_url)
    restore(restored, plain, made.backup)
    assert rows_of(restored) == rows_of(sqlite_live.site)


@pytest.mark.parametrize("place", ["bundles", "adapter"])
def test_a_file_that_differs_is_refused_before_anything_is_touched_or_replaced(
    made: Made, sqlite_live: LiveSite, plain: Repository, tmp_path: Path, place: str
) -> None:
    restored = site_at(tmp_path / "restored")
    if place == "bundles":
        path = restored.folders["bundles"] / "CURRENT"
    else:
        name = next(name for name in made.backup.places["store"] if name.endswith("manifest.json"))
        path = restored.state / "adapters" / name
    path.parent.mkdir(parents=True)
    path.write_text(OTHER)
    before = files_of(restored)
    with pytest.raises(Conflict, match="give --replace"):
        restore(restored, plain, made.backup)
    assert files_of(restored) == before
    restore(restored, plain, made.backup, replace=True)
    assert LiveSite(restored, tmp_path).snapshot() == sqlite_live.snapshot()


def test_nothing_of_a_damaged_backup_reaches_the_database(
    made: Made, plain: Repository, tmp_path: Path
) -> None:
    """Not even if the damage is in the last table."""
    (piece,) = made.backup.database.tables["batch_jobs"]
    (plain.folder.location.path / plain.object_name(piece.entry)).write_bytes(b"x" * piece.entry.size)
    restored = site_at(tmp_path / "restored")
    with pytest.raises(HashMismatch, match="database/batch_jobs/0 is damaged"):
        restore(restored, plain, made.backup)
    assert tables_of(restored) == set()


def test_settings_must_say_where_files_belong(made: Made, plain: Repository, tmp_path: Path) -> None:
    site = Site(sqlite_url(tmp_path / "new.db"), tmp_path / "new")
    with pytest.raises(SettingsError, match=r"holds files of router\.bundle_path, which is not set"):
        restore(site, plain, made.backup)
    assert not (tmp_path / "new" / "adapters" / "code").exists()


@pytest.mark.parametrize("schema", schemas())
def test_backups_of_earlier_releases_come_forward(schema: str, database_url: str, tmp_path: Path) -> None:
    """Rows that an earlier release wrote go into tables as it had them; then its successors' migrations
    run."""
    released = Site(sqlite_url(tmp_path / "released.db"), tmp_path)
    with closing(sqlite3.connect(tmp_path / "released.db")) as connection:
        connection.executescript((FOLDER / f"{schema}.sqlite.sql").read_text(encoding="utf-8"))
    pieces, expected = {}, {}
    database = released.database()
    with database.transaction() as reader:
        present = set(sa.inspect(reader).get_table_names())
        for table in (table for table in metadata.sorted_tables if table.name in present):
            written = tables._write(reader, table, tmp_path)
            pieces[table.name] = [path.read_bytes() for path, _ in written]
            expected[table.name] = sorted(
                (dict(row._mapping) for row in reader.execute(table.select())), key=repr
            )
    database.close()
    target = Site(database_url, tmp_path)
    database = target.database()
    tables.load(database, schema, pieces, replace=False)
    with database.transaction() as reader:
        assert schema_of(reader) == release_schema()
    database.close()
    rows = rows_of(target)
    assert {name: rows[name] for name in expected} == expected
    assert all(expected[name] for name in expected)


def test_a_backup_of_a_later_release_is_refused(made: Made, plain: Repository, tmp_path: Path) -> None:
    later = made.backup.database.model_copy(update={"schema_revision": "9999"})
    backup = made.backup.model_copy(update={"database": later})
    restored = site_at(tmp_path / "restored")
    with pytest.raises(AdaptiveLoraError, match="9999 is of a later release"):
        restore(restored, plain, backup)
    assert tables_of(restored) == set()


def tables_of(site: Site) -> set[str]:
    database = site.database()
    with database.transaction() as connection:
        names = set(sa.inspect(connection).get_table_names())
    database.close()
    return names
