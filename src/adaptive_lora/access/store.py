"""API keys, revoked tokens and the audit log, in the registry's database.

Every change is one transaction, raises `revision` by one and leaves an entry in the audit log. Whoever
follows it polls `revision()` and reads `listing()` when it has changed. All methods block, and raise
RegistryUnavailable as the registry's do; what cannot stand here raises InvalidRequest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from adaptive_lora.access import secrets
from adaptive_lora.access.records import ApiKey, AuditAction, AuditEntry, Listing, Minted, NewKey
from adaptive_lora.adapters.registry_checks import check_who
from adaptive_lora.adapters.registry_database import Database
from adaptive_lora.adapters.registry_schema import open_database
from adaptive_lora.adapters.registry_tables import access_state, api_keys, audit, revoked_tokens
from adaptive_lora.errors import InvalidRequest, NotFound

MAX_ENTRIES = 1_000
"""Of the audit log, that one call returns."""
MAX_AGENTS = 256
MAX_JTI_CHARS = 255
KEPT_AFTER_EXPIRY = timedelta(days=1)
"""How long a revocation stays after its token has expired: longer than clocks differ."""

WORD = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""Tenants, tiers, agents. As in the grammar of model names (agents/names.py)."""


class AccessStore:
    """Thread-safe; other processes may use the same database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str, *, timeout_s: float = 5.0) -> Self:
        """As `open_database`: the registry's."""
        return cls(open_database(url, timeout_s=timeout_s))

    def close(self) -> None:
        self._database.close()

    # Reading

    def revision(self) -> int:
        """Rises with every change. Cheap."""
        with self._database.transaction() as connection:
            return _read_revision(connection)

    def listing(self) -> Listing:
        """Everything that a gateway compares credentials with, as it was at one moment."""
        with self._database.transaction() as connection:
            keys = connection.execute(sa.select(api_keys).where(api_keys.c.revoked_at.is_(None)))
            revoked = connection.execute(sa.select(revoked_tokens.c.tenant, revoked_tokens.c.jti))
            return Listing(
                _read_revision(connection),
                {row.id: _key(row) for row in keys},
                frozenset((row.tenant, row.jti) for row in revoked),
            )

    def list_keys(self, tenant: str | None = None) -> tuple[ApiKey, ...]:
        """Also those that are revoked or have expired; of one tenant, or all. Oldest first."""
        query = sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        if tenant is not None:
            query = query.where(api_keys.c.tenant == tenant)
        with self._database.transaction() as connection:
            return tuple(_key(row) for row in connection.execute(query))

    def key(self, key_id: str) -> ApiKey:
        """Raises NotFound."""
        with self._database.transaction() as connection:
            return _read_key(connection, key_id)

    def audit(
        self, tenant: str | None = None, *, limit: int = 100, before_id: int | None = None
    ) -> tuple[AuditEntry, ...]:
        """Newest first: of one tenant or of all, older than `before_id`."""
        if not 1 <= limit <= MAX_ENTRIES:
            raise InvalidRequest(f"limit is between 1 and {MAX_ENTRIES}, not {limit}")
        query = sa.select(audit).order_by(audit.c.id.desc()).limit(limit)
        if tenant is not None:
            query = query.where(audit.c.tenant == tenant)
        if before_id is not None:
            query = query.where(audit.c.id < before_id)
        with self._database.transaction() as connection:
            return tuple(AuditEntry(**row._mapping) for row in connection.execute(query))

    def last(self, action: AuditAction) -> datetime | None:
        """When that was last done; None if never."""
        query = sa.select(audit.c.at).where(audit.c.action == action).order_by(audit.c.id.desc()).limit(1)
        with self._database.transaction() as connection:
            return connection.scalars(query).first()

    # Changing

    def mint(self, new: NewKey, *, who: str) -> Minted:
        """A new key. Its secret is in the answer and nowhere else."""
        _check(new)
        key_id, secret = secrets.new_secret()
        with self._changing(who) as change:
            row = {
                "id": key_id,
                "digest": secrets.digest_of(secret),
                "name": new.name,
                "tenant": new.tenant,
                "scopes": sorted(new.scopes),
                "agents": None if new.agents is None else sorted(new.agents),
                "tier": new.tier,
                "created_at": change.at,
                "created_by": who,
                "expires_at": new.expires_at,
            }
            change.connection.execute(sa.insert(api_keys).values(row))
            detail = {name: row[name] for name in ("name", "scopes", "agents", "tier")}
            expires_at = None if new.expires_at is None else new.expires_at.isoformat()
            change.record("key.mint", new.tenant, key_id, {**detail, "expires_at": expires_at})
            return Minted(_read_key(change.connection, key_id), secret)

    def revoke(self, key_id: str, *, who: str) -> ApiKey:
        """From now on the key is refused. Raises NotFound; a key that is revoked stays so."""
        with self._changing(who) as change:
            key = _read_key(change.connection, key_id)
            if key.revoked_at is None:
                where = api_keys.c.id == key_id
                change.connection.execute(sa.update(api_keys).where(where).values(revoked_at=change.at))
                change.record("key.revoke", key.tenant, key_id, {"name": key.name})
            return _read_key(change.connection, key_id)

    def revoke_token(self, tenant: str, jti: str, *, expires_at: datetime | None = None, who: str) -> None:
        """From now on the tenant's tokens with this `jti` are refused.

        The revocation is forgotten a day after `expires_at`, when the token is refused in any case; without
        it, never. Of several for one token the one that lasts longest counts.
        """
        _check_word("a tenant", tenant)
        if not jti or len(jti) > MAX_JTI_CHARS or not jti.isprintable():
            raise InvalidRequest(f"a jti has 1 to {MAX_JTI_CHARS} printable characters")
        with self._changing(who) as change:
            of_token = {"tenant": tenant, "jti": jti}
            known = change.connection.execute(sa.select(revoked_tokens).filter_by(**of_token)).first()
            if known is None:
                row = {**of_token, "revoked_at": change.at, "revoked_by": who, "expires_at": expires_at}
                change.connection.execute(sa.insert(revoked_tokens).values(row))
                change.record("token.revoke", tenant, jti, {})
            elif known.expires_at is not None and (expires_at is None or expires_at > known.expires_at):
                longer = sa.update(revoked_tokens).filter_by(**of_token).values(expires_at=expires_at)
                change.connection.execute(longer)
                change.record("token.revoke", tenant, jti, {})
            gone = revoked_tokens.c.expires_at < change.at - KEPT_AFTER_EXPIRY
            change.connection.execute(sa.delete(revoked_tokens).where(gone))

    def note(
        self, action: AuditAction, tenant: str, subject: str, detail: Mapping[str, Any], *, who: str
    ) -> None:
        """An administrative act that changes nothing here: an entry in the audit log."""
        with self._changing(who) as change:
            change.record(action, tenant, subject, detail)

    def used(self, moments: Mapping[str, datetime]) -> None:
        """Note when keys, by id, were last used. No change: neither revision nor audit log know of it."""
        statement = (
            sa.update(api_keys)
            .where(api_keys.c.id == sa.bindparam("key_id"))
            .values(last_used_at=sa.bindparam("at"))
        )
        # Sorted, so that two gateways lock the rows in one order.
        rows = [{"key_id": key_id, "at": at} for key_id, at in sorted(moments.items())]
        with self._database.transaction(change=True) as connection:
            if rows:
                connection.execute(statement, rows)

    @contextmanager
    def _changing(self, who: str) -> Iterator[_Change]:
        check_who(who)
        with self._database.transaction(change=True) as connection:
            revision = _read_revision(connection, lock=True)
            change = _Change(connection, who)
            yield change
            if change.is_recorded:
                connection.execute(sa.update(access_state).values(revision=revision + 1))


class _Change:
    """A transaction that no other change runs beside."""

    def __init__(self, connection: Connection, who: str) -> None:
        self.connection = connection
        self.at = datetime.now(UTC)
        self.is_recorded = False
        self._who = who

    def record(self, action: AuditAction, tenant: str, subject: str, detail: Mapping[str, Any]) -> None:
        """Add the entry to the audit log, in the transaction of what it tells."""
        # Changes come one after the other, so the next number is free.
        last = self.connection.scalars(sa.select(sa.func.coalesce(sa.func.max(audit.c.id), 0))).one()
        what = {"tenant": tenant, "action": action, "subject": subject, "detail": dict(detail)}
        row = {"id": last + 1, "at": self.at, "who": self._who} | what
        self.connection.execute(sa.insert(audit).values(row))
        self.is_recorded = True


def _check(new: NewKey) -> None:
    check_who(new.name)
    _check_word("a tenant", new.tenant)
    _check_word("a tier", new.tier)
    if not new.scopes:
        raise InvalidRequest("a key without scopes is good for nothing: name some")
    if new.agents is not None and len(new.agents) > MAX_AGENTS:
        raise InvalidRequest(f"a key names at most {MAX_AGENTS} agents")
    for agent in new.agents or ():
        _check_word("an agent", agent)
    if new.expires_at is not None and new.expires_at <= datetime.now(UTC):
        raise InvalidRequest("the key would have expired already: choose a later moment")


def _check_word(what: str, word: str) -> None:
    if not WORD.fullmatch(word):
        raise InvalidRequest(
            f"{word[:80]!r} is not allowed as {what}: 1 to 63 characters of a-z, 0-9, '_' and '-', beginning "
            "with a letter or digit"
        )


def _read_revision(connection: Connection, *, lock: bool = False) -> int:
    query = sa.select(access_state.c.revision)
    revision: int = connection.scalars(query.with_for_update() if lock else query).one()
    return revision


def _read_key(connection: Connection, key_id: str) -> ApiKey:
    row = connection.execute(sa.select(api_keys).where(api_keys.c.id == key_id)).first()
    if row is None:
        raise NotFound("there is no key with this id")
    return _key(row)


def _key(row: Row[Any]) -> ApiKey:
    columns = dict(row._mapping)
    columns["scopes"] = frozenset(row.scopes)
    columns["agents"] = None if row.agents is None else frozenset(row.agents)
    return ApiKey(**columns)
