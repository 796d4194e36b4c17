"""Tables come forward from every release, with what is in them; tables and models agree."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from adaptive_lora.adapters import registry_schema
from adaptive_lora.adapters.registry import Registry
from adaptive_lora.adapters.registry_tables import SCHEMA_TABLE, metadata
from adaptive_lora.errors import SettingsError

from .registry_releases import FOLDER, content, fill, schemas
from .registry_state import A, add, check_consistent

ROOT = Path(__file__).parents[2]


def restore(url: str, dump: str) -> None:
    """Run the statements of a dump in an empty database."""
    if url.startswith("sqlite"):
        database = sa.make_url(url).database
        assert database is not None
        with closing(sqlite3.connect(database)) as connection:
            connection.executescript(dump)
    else:
        with psycopg.connect(url) as connection:
            connection.execute(dump.encode())


def kind_of(url: str) -> str:
    return url.partition(":")[0]


@pytest.mark.parametrize("schema", schemas())
def test_every_release_comes_forward_with_its_data(database_url: str, schema: str) -> None:
    dump = FOLDER / f"{schema}.{kind_of(database_url)}.sql"
    restore(database_url, dump.read_text(encoding="utf-8"))
    registry = Registry.open(database_url)
    assert_kept(json.loads(dump.with_suffix(".json").read_text(encoding="utf-8")), content(registry))
    check_consistent(registry)
    add(registry, "eeeeeeeeeee5")
    registry.rollback("code", to=A, who="ann", why="it is in use again")
    check_consistent(registry)
    registry.close()


def assert_kept(before: Any, now: Any) -> None:
    """Later releases may know more; what was known is the same."""
    if isinstance(before, dict):
        for key, value in before.items():
            assert_kept(value, now[key])
    elif isinstance(before, list):
        assert len(now) == len(before)
        for one, other in zip(before, now, strict=True):
            assert_kept(one, other)
    else:
        assert now == before


def test_a_dump_holds_something_of_everything(database_url: str) -> None:
    dump = (FOLDER / f"{schemas()[0]}.{kind_of(database_url)}.sql").read_text(encoding="utf-8")
    restore(database_url, dump)
    engine = sa.create_engine(database_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        for table in sa.inspect(connection).get_table_names():
            n_rows = connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one()
            assert n_rows > 0, table
    engine.dispose()


@pytest.fixture
def inspected(registry: Registry) -> Iterator[sa.Connection]:
    """A database that migrations alone have made."""
    with registry._database.transaction() as connection:
        yield connection


def differences(connection: sa.Connection, wanted: sa.MetaData) -> list[Any]:
    plugins = ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"]
    options = {
        "version_table": SCHEMA_TABLE,
        "compare_server_default": True,
        "autogenerate_plugins": plugins,
    }
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), wanted))


def test_migrations_make_what_the_models_say(inspected: sa.Connection) -> None:
    assert differences(inspected, metadata) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda tables: tables["registry_versions"].append_column(sa.Column("licence", sa.Text)),
        lambda tables: setattr(tables["registry_versions"].c.rank, "type", sa.Text()),
        lambda tables: setattr(tables["registry_versions"].c.refusal, "nullable", False),
        lambda tables: tables["registry_aliases"].append_constraint(
            sa.CheckConstraint("share < 0.5", name="small")
        ),
        lambda tables: sa.Index("ix_who", tables["registry_history"].c.who),
        lambda tables: sa.Table("registry_others", tables["registry_state"].metadata, sa.Column("id")),
    ],
)
def test_a_difference_would_be_seen(inspected: sa.Connection, change: Callable[[Any], object]) -> None:
    other = sa.MetaData(naming_convention=metadata.naming_convention)
    for table in metadata.sorted_tables:
        table.to_metadata(other)
    change(other.tables)
    assert differences(inspected, other)


def test_constraints_have_the_names_of_the_convention(inspected: sa.Connection) -> None:
    """PostgreSQL and SQLite alike, so that later migrations can name what they change."""
    inspector = sa.inspect(inspected)
    for table in metadata.sorted_tables:
        found = {
            inspector.get_pk_constraint(table.name)["name"],
            *(key["name"] for key in inspector.get_foreign_keys(table.name)),
            *(check["name"] for check in inspector.get_check_constraints(table.name)),
            *(index["name"] for index in inspector.get_indexes(table.name)),
        }
        wanted = {str(constraint.name) for constraint in table.constraints} | {
            str(index.name) for index in table.indexes
        }
        assert found == wanted


def test_opening_again_changes_nothing(registry: Registry, database_url: str) -> None:
    fill(registry)
    before = content(registry)
    again = Registry.open(database_url)
    assert content(again) == before
    again.close()


def test_a_migration_that_fails_leaves_the_tables_as_they_were(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry.open(database_url)
    fill(registry)
    before = content(registry)
    registry.close()
    migrations = copy_migrations(tmp_path)
    (migrations / "versions" / "9999_wrong.py").write_text(
        "from alembic import op\n"
        f"revision, down_revision = '9999', '{schemas()[0]}'\n"
        "def upgrade():\n"
        "    op.execute('CREATE TABLE registry_half (id INTEGER)')\n"
        "    op.execute('UPDATE registry_state SET revision = 0')\n"
        "    op.execute('INSERT INTO registry_absent VALUES (1)')\n"
    )
    with monkeypatch.context() as patch:
        patch.setattr(registry_schema, "MIGRATIONS", migrations)
        with pytest.raises(SettingsError, match=r"tables cannot be made in .*registry_absent"):
            Registry.open(database_url)
    registry = Registry.open(database_url)
    assert content(registry) == before
    with registry._database.transaction() as connection:
        assert "registry_half" not in sa.inspect(connection).get_table_names()
    registry.close()


def copy_migrations(folder: Path) -> Path:
    copy = folder / "migrations"
    (copy / "versions").mkdir(parents=True)
    for path in registry_schema.MIGRATIONS.rglob("*.py"):
        (copy / path.relative_to(registry_schema.MIGRATIONS)).write_bytes(path.read_bytes())
    return copy


def test_the_package_brings_its_migrations(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for path in [*ROOT.glob("src/**/*.py"), ROOT / "pyproject.toml", ROOT / "README.md", ROOT / "LICENSE"]:
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    run = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=source, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    for path in registry_schema.MIGRATIONS.rglob("*.py"):
        assert path.relative_to(ROOT / "src").as_posix() in packed
