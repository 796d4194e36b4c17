"""The registry's database: connections to it, and transactions that end in time.

SQLite and PostgreSQL behave alike here. A change locks out other changes from its first statement on, so that
it sees what it changes as it is; a read sees one state of everything. Whatever the database does not answer
in time is RegistryUnavailable, and the next call finds it again by itself. Where the database is and what the
driver said stands in the log, once, and not in that error, which callers see; the password stands nowhere.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, Engine, make_url

from adaptive_lora.errors import AdaptiveLoraError, RegistryUnavailable, SettingsError, StorageFull
from adaptive_lora.secret_files import SecretFile

_log = logging.getLogger(__name__)

_SQLITE_ERROR, _SQLITE_CORRUPT, _SQLITE_FULL, _SQLITE_NOT_A_DATABASE = 1, 11, 13, 26
_POSTGRESQL_FULL = "53100"
_AWAY = (exc.OperationalError, exc.InterfaceError, exc.InternalError)
"""Away, locked, shut down, or a replica that takes no changes; but SQLite calls wrong SQL so (code 1)."""


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file, whatever characters its path has."""
    return URL.create("sqlite", database=str(path.absolute())).render_as_string(hide_password=False)


_PASSWORD_FILE = "adaptive_lora_password_file"
"""An option of our URLs: so whoever hands one on hands on where its password is."""


def with_password_file(url: str, path: Path) -> str:
    """`url`, for which each new connection has the password that `path` holds then.

    Raises SettingsError for a URL of another database than PostgreSQL, or with a password in it.
    """
    parsed = _parsed(url)
    if parsed.drivername == "sqlite" or parsed.password is not None:
        raise SettingsError(
            "registry.password_file is for a PostgreSQL user whose password is not in registry.database_url"
        )
    return parsed.update_query_dict({_PASSWORD_FILE: str(path)}).render_as_string(hide_password=False)


class _Standing:
    """Whether a database answers, as far as this process knows. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_away = False
        self._since = -math.inf

    def turns(self, *, is_away: bool, began: float) -> bool:
        """Whether the end of a transaction is news; `began` is on `time.monotonic`'s clock. One that began
        before the last news tells nothing: it may have waited for what is over."""
        with self._lock:
            if is_away == self._is_away or began < self._since:
                return False
            self._is_away, self._since = is_away, time.monotonic()
            return True


_standings: WeakValueDictionary[URL, _Standing] = WeakValueDictionary()
"""By address: several rooms have connections of their own to the one database, and the log says it once."""


class Database:
    """Connections to one database. Thread-safe."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        """Does not connect yet. Raises SettingsError for a URL of another kind."""
        self._url = _parsed(url)
        self._engine = _make_engine(self._url, timeout_s)
        self._standing = _standings.setdefault(self._url, _Standing())

    def __str__(self) -> str:
        """For messages: what kind, and where; no user and no password."""
        if self._url.drivername == "sqlite":
            return f"the SQLite file {self._url.database}"
        where = self._url.host or self._url.query.get("host") or "localhost"
        return f"PostgreSQL at {where}:{self._url.port or 5432}/{self._url.database or ''}"

    def patient(self, timeout_s: float) -> Database:
        """Other connections to the same database, with a time limit of their own."""
        return Database(self._url.render_as_string(hide_password=False), timeout_s=timeout_s)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def transaction(self, *, change: bool = False) -> Iterator[Connection]:
        """A connection inside a transaction that is committed at the end, or rolled back by an exception.

        A reader sees one state of the database throughout. With `change`, SQLite admits nobody else who
        changes anything; on PostgreSQL the first statement has to lock a row that all of them lock. Raises
        RegistryUnavailable, StorageFull.
        """
        options: dict[str, Any] = {"change": change}
        if self._engine.dialect.name == "postgresql" and not change:
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        began = time.monotonic()
        try:
            with self._engine.connect().execution_options(**options) as connection, connection.begin():
                yield connection
        except exc.TimeoutError as error:
            raise RegistryUnavailable("all connections to the registry are in use: try again") from error
        except exc.DBAPIError as error:
            meaning = _meaning(error)
            if meaning is None:
                raise
            if self._standing.turns(is_away=True, began=began):
                _log.error("the registry is not available, %s: %s", self, said(error))
            raise meaning from error
        if self._standing.turns(is_away=False, began=began):
            _log.info("the registry is available again")


def _meaning(error: exc.DBAPIError) -> AdaptiveLoraError | None:
    """What to raise for `error`; None if it is a mistake of ours."""
    code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    if code in (_SQLITE_FULL, _POSTGRESQL_FULL):
        return StorageFull("there is no room left for the registry: make some")
    if code in (_SQLITE_CORRUPT, _SQLITE_NOT_A_DATABASE):
        return RegistryUnavailable("the registry is damaged, or no database: restore it from a backup")
    if isinstance(error, _AWAY) and code != _SQLITE_ERROR:
        return RegistryUnavailable("the registry does not answer: try again; the server's log says more")
    return None


def _parsed(url: str) -> URL:
    """Raises SettingsError, without the URL."""
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise SettingsError(
            "registry.database_url is no URL: write postgresql://user:password@host:5432/database, with "
            "special characters of the password percent-encoded, or sqlite:///path"
        ) from None
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "sqlite" and parsed.database and parsed.database != ":memory:":
        return parsed
    raise SettingsError(
        "registry.database_url must begin with postgresql://, or be sqlite:/// and a file's path"
    )


def _make_engine(url: URL, timeout_s: float) -> Engine:
    is_sqlite = url.drivername == "sqlite"
    password_file = url.query.get(_PASSWORD_FILE)
    password = SecretFile(Path(str(password_file)), "registry.password_file") if password_file else None
    url = url.difference_update_query([_PASSWORD_FILE])
    if is_sqlite:
        arguments: dict[str, Any] = {"timeout": timeout_s}
        options: dict[str, Any] = {}
    else:
        # Prepared statements would tie a session to one server connection, which PgBouncer does not promise.
        # The encoding is asked for: a server that knows of none (SQL_ASCII) would give bytes instead of text.
        arguments = {
            "client_encoding": "utf8",
            "connect_timeout": math.ceil(timeout_s),
            "prepare_threshold": None,
        }
        options = {"use_native_hstore": False, "isolation_level": "READ COMMITTED"}
    try:
        engine = sa.create_engine(
            url,
            connect_args=arguments,
            pool_pre_ping=True,
            pool_timeout=timeout_s,
            hide_parameters=True,
            **options,
        )
    except (exc.ArgumentError, TypeError, ValueError):
        raise SettingsError("registry.database_url has an option that is not known") from None
    if is_sqlite:
        _set_up_sqlite(engine, timeout_s)
    else:
        _set_up_postgresql(engine, timeout_s, password)
    return engine


def _write_ahead(connection: Any, timeout_s: float) -> None:
    """With a write-ahead log readers and a writer do not wait for each other. A new file is changed to it by
    whoever comes first; SQLite refuses the others meanwhile, whatever its own time limit."""
    ends_at = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > ends_at:
                raise
        time.sleep(0.01)


def _set_up_sqlite(engine: Engine, timeout_s: float) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # we begin transactions ourselves, below
        _write_ahead(connection, timeout_s)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        is_change = connection.get_execution_options().get("change")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_change else "BEGIN")


def _set_up_postgresql(engine: Engine, timeout_s: float, password: SecretFile | None) -> None:
    import psycopg

    from adaptive_lora.adapters.registry_postgresql import connect_in_time

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, positional: Any, named: dict[str, Any]) -> Any:
        if password is not None:
            try:
                named["password"] = password.read()
            except SettingsError as error:  # it was there when we started: away, as a server may be
                raise psycopg.OperationalError(error.message) from None
        return connect_in_time(timeout_s, *positional, **named)

    # Per transaction, not per session: PgBouncer gives the next transaction another one. A process that hangs
    # in the middle of a change must not keep the others out for ever.
    timeout = f"{math.ceil(timeout_s * 1000)}ms"
    limits = sa.select(
        sa.func.set_config("lock_timeout", timeout, True),
        sa.func.set_config("statement_timeout", timeout, True),
        sa.func.set_config("idle_in_transaction_session_timeout", timeout, True),
    )

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.execute(limits)


def said(error: exc.DBAPIError) -> str:
    """The driver's own words, on one line."""
    return " ".join(str(error.orig).split())
