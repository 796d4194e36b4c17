"""A database that is away, locked, hung, full, damaged or not ours: what is said, and that it passes."""

from __future__ import annotations

import contextlib
import logging
import signal
import sqlite3
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import event, make_url

from adaptive_lora.adapters.registry import Registry
from adaptive_lora.adapters.registry_database import sqlite_url
from adaptive_lora.errors import RegistryUnavailable, SettingsError, StorageFull
from tests.postgres import PASSWORD, USER, PostgresServer

from .registry_state import A, B, C, add, check_consistent, new_version

SHORT_S = 0.5
SECRETS = (PASSWORD, "p%40ss", "wr0ng")


def until(change: Callable[[], object]) -> None:
    """Try again as long as the registry is not available: on a busy machine our own pauses are too long for
    SHORT_S, too."""
    while True:
        with contextlib.suppress(RegistryUnavailable):
            change()
            return


@pytest.fixture
def hasty(database_url: str) -> Iterator[Registry]:
    """A registry that waits for nobody very long."""
    registry = Registry.open(database_url, timeout_s=SHORT_S)
    until(lambda: add(registry, A))
    yield registry
    registry.close()


@pytest.fixture
def on_postgres(postgres: PostgresServer) -> Iterator[Registry]:
    registry = Registry.open(postgres.url(postgres.new_database()), timeout_s=SHORT_S)
    until(lambda: add(registry, A))
    yield registry
    registry.close()


@contextlib.contextmanager
def somebody_else_is_changing_it(url: str) -> Iterator[None]:
    if url.startswith("sqlite"):
        database = make_url(url).database
        assert database is not None
        with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
    else:
        with psycopg.connect(url) as connection:
            connection.execute("SELECT revision FROM registry_state FOR UPDATE")
            yield


def test_a_locked_database_is_read_and_not_changed(hasty: Registry, database_url: str) -> None:
    with somebody_else_is_changing_it(database_url):
        with pytest.raises(RegistryUnavailable, match="does not answer") as caught:
            add(hasty, B)
        assert caught.value.retryable
        assert hasty.revision() == 1
        assert [record.version for record in hasty.snapshot().versions] == [A]
    until(lambda: add(hasty, B))
    assert check_consistent(hasty).revision == 2


@contextlib.contextmanager
def in_the_middle_of_a_change(registry: Registry, what: Callable[[], object]) -> Iterator[None]:
    """Before the history is written, and before it is committed: `what`."""
    engine = registry._database._engine

    def listen(_1: object, _2: object, statement: str, *_: object) -> None:
        if "INSERT INTO registry_history" in statement:
            what()

    event.listen(engine, "before_cursor_execute", listen)
    yield
    event.remove(engine, "before_cursor_execute", listen)


def test_whoever_hangs_in_a_change_does_not_keep_the_others_out(
    on_postgres: Registry, postgres: PostgresServer
) -> None:
    """PostgreSQL ends that session. (A lock of SQLite is its process's own: the others report it.)"""
    hangs, may_end = threading.Event(), threading.Event()
    other = Registry.open(on_postgres._database._url.render_as_string(False), timeout_s=SHORT_S)

    def hang() -> None:
        hangs.set()
        may_end.wait()

    with in_the_middle_of_a_change(other, hang), ThreadPoolExecutor(1) as pool:
        change = pool.submit(add, other, B)
        try:
            hangs.wait()
            until(lambda: add(on_postgres, C))
        finally:
            may_end.set()
        with pytest.raises(RegistryUnavailable):
            change.result()
    other.close()
    assert [record.version for record in check_consistent(on_postgres).versions] == [A, C]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_server_that_goes_away_and_comes_back(
    on_postgres: Registry,
    postgres: PostgresServer,
    how: signal.Signals,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="adaptive_lora")
    postgres.stop(how)
    try:
        for call in (on_postgres.revision, on_postgres.snapshot, lambda: add(on_postgres, B)):
            with pytest.raises(RegistryUnavailable, match="does not answer") as caught:
                call()
            assert str(postgres.port) not in caught.value.message, "callers need not know where it is"
    finally:
        postgres.start()
    assert on_postgres.revision() == 1
    away, back = (record.getMessage() for record in caplog.records)
    assert f"not available, PostgreSQL at 127.0.0.1:{postgres.port}/test_" in away
    assert back == "the registry is available again"
    until(lambda: add(on_postgres, B))
    assert check_consistent(on_postgres).revision == 2


def test_a_server_that_hangs(on_postgres: Registry, postgres: PostgresServer) -> None:
    postgres.freeze()
    try:
        for call in (on_postgres.revision, lambda: add(on_postgres, B)):
            with pytest.raises(RegistryUnavailable):
                call()
    finally:
        postgres.thaw()
    until(lambda: add(on_postgres, B))
    assert [record.version for record in check_consistent(on_postgres).versions] == [A, B]


def test_a_server_that_hangs_in_the_middle_of_a_change(
    on_postgres: Registry, postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    with in_the_middle_of_a_change(on_postgres, postgres.freeze):
        try:
            with pytest.raises(RegistryUnavailable):
                add(on_postgres, B)
        finally:
            postgres.thaw()
    assert "no answer within 0.5 s" in caplog.text
    until(on_postgres.revision)
    assert [record.version for record in check_consistent(on_postgres).versions] == [A]


def test_a_session_that_the_server_ends(on_postgres: Registry, postgres: PostgresServer) -> None:
    """As a failover or an administrator does. Idle connections are replaced without an error."""
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        )
    assert on_postgres.revision() == 1


def test_no_room_left(tmp_path: Path) -> None:
    """SQLite's own limit stands for the disk's: the same error code comes from both."""
    registry = Registry.open(sqlite_url(tmp_path / "registry.db"))
    add(registry, A)

    @event.listens_for(registry._database._engine, "begin")
    def limit(connection: object) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")  # type: ignore[attr-defined]

    with pytest.raises(StorageFull, match="no room left"):
        registry.report("code", A, "effect", {"text": "x" * 100_000}, who="ann")
    event.remove(registry._database._engine, "begin", limit)
    assert check_consistent(registry).revision == 1
    registry.close()


def test_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"This is no database, whatever its name says.\n" * 100)
    with pytest.raises(RegistryUnavailable, match=r"damaged.*backup"):
        Registry.open(sqlite_url(tmp_path / "registry.db"))


def test_a_folder_that_is_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "absent" / "registry.db"
    with pytest.raises(RegistryUnavailable):
        Registry.open(sqlite_url(path))
    assert f"the SQLite file {path}: unable to open" in caplog.text


def test_a_path_may_have_any_characters(tmp_path: Path) -> None:
    path = tmp_path / "a b%20?#@:é" / "registry.db"
    path.parent.mkdir()
    registry = Registry.open(sqlite_url(path))
    add(registry, A)
    registry.close()
    assert path.is_file()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://ann:s3cret@host/db",
        "postgresql+asyncpg://ann:s3cret@host/db",
        "postgresql://ann:s3cret@host:port/db",
        "ann:s3cret@host",
        "sqlite://",
        "sqlite:///:memory:",
        "",
    ],
)
def test_a_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Registry.open(url, timeout_s=SHORT_S)
    assert "database_url" in caught.value.message
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_an_option_that_is_not_known(postgres: PostgresServer) -> None:
    url = postgres.url("postgres") + "?wrong=wr0ng"
    with pytest.raises(SettingsError, match="invalid connection option") as caught:
        Registry.open(url)
    assert not shows_the_password(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_the_schemes_of_postgresql(postgres: PostgresServer, scheme: str) -> None:
    url = postgres.url(postgres.new_database()).replace("postgresql", scheme, 1)
    Registry.open(url).close()


@pytest.mark.parametrize("encoding", ["UTF8", "SQL_ASCII"])
def test_text_is_what_it_was_in_a_database_of_any_encoding(postgres: PostgresServer, encoding: str) -> None:
    """Asked for none, a server that was set up without a locale has SQL_ASCII."""
    options = f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
    with contextlib.closing(Registry.open(postgres.url(postgres.new_database(options)))) as registry:
        add(registry, A)
        (version,) = check_consistent(registry).versions
        assert version.description == new_version().description


def test_no_password_is_ever_shown(postgres: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = postgres.url(postgres.new_database())
    registry = Registry.open(url)
    add(registry, A)
    assert f"127.0.0.1:{postgres.port}/test_" in repr(registry)
    registry.close()
    wrong = url.replace(f"{USER}:", f"{USER}:wr0ng")
    absent = postgres.url("absent")
    for bad in (wrong, absent):
        with pytest.raises(RegistryUnavailable) as caught:
            Registry.open(bad)
        assert not shows_the_password(caught.value)
    assert "password authentication failed" in caplog.text
    assert not any(secret in f"{caplog.text} {registry!r}" for secret in SECRETS)
    assert make_url(url).password == PASSWORD, "what is looked for is what was used"


def shows_the_password(error: BaseException) -> bool:
    shown = "".join(traceback.format_exception(error))
    return any(secret in shown for secret in SECRETS)


def test_a_database_where_tables_may_not_be_made(postgres: PostgresServer) -> None:
    name = postgres.new_database()
    with psycopg.connect(postgres.url(name), autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS reader")
        connection.execute("CREATE ROLE reader LOGIN PASSWORD 's3cret'")
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    url = f"postgresql://reader:s3cret@127.0.0.1:{postgres.port}/{name}"
    with pytest.raises(SettingsError, match=r"tables cannot be made in .* permission denied") as caught:
        Registry.open(url)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_a_database_of_a_later_release_is_refused(database_url: str) -> None:
    registry = Registry.open(database_url)
    add(registry, A)
    with registry._database.transaction(change=True) as connection:
        connection.exec_driver_sql("UPDATE registry_schema SET version_num = '9999'")
    registry.close()
    with pytest.raises(SettingsError, match=r"later release \(schema 9999, .* knows up to 0\d+\)"):
        Registry.open(database_url)
