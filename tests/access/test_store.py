"""API keys, revocations and the audit log, in both kinds of database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from sqlalchemy import make_url

from adaptive_lora.access import secrets
from adaptive_lora.access.records import NewKey
from adaptive_lora.access.store import AccessStore
from adaptive_lora.adapters.registry import Registry
from adaptive_lora.errors import InvalidRequest, NotFound

GENERATE = frozenset({"generate"})
CI = NewKey("ci", "acme", GENERATE, frozenset({"code"}))


def test_a_key_is_listed_without_its_secret(store: AccessStore) -> None:
    minted = store.mint(CI, who="ann")
    (key,) = store.list_keys()
    assert key == minted.key == store.key(key.id) == store.listing().keys[key.id]
    assert (key.name, key.tenant, key.scopes, key.agents) == ("ci", "acme", GENERATE, frozenset({"code"}))
    assert (key.created_by, key.expires_at, key.revoked_at, key.last_used_at) == ("ann", None, None, None)
    assert secrets.matches(minted.secret, key.digest)
    assert minted.secret not in f"{minted!r} {key!r}"


def test_the_database_does_not_hold_the_secret(store: AccessStore, database_url: str) -> None:
    minted = store.mint(CI, who="ann")
    store.revoke(minted.key.id, who="ann")
    part = minted.secret.rpartition("_")[2]
    assert part not in "".join(_all_rows(database_url))


def _all_rows(url: str) -> Iterator[str]:
    tables = ("access_keys", "access_audit", "access_revoked_tokens")
    if url.startswith("sqlite"):
        database = make_url(url).database
        assert database is not None
        with closing(sqlite3.connect(database)) as connection:
            for table in tables:
                yield from map(str, connection.execute(f"SELECT * FROM {table}"))
    else:
        with psycopg.connect(url) as connection:
            for table in tables:
                yield from map(str, connection.execute(f"SELECT * FROM {table}".encode()))


def test_a_revoked_key_leaves_the_listing_and_stays_in_the_list(store: AccessStore) -> None:
    minted = store.mint(CI, who="ann")
    revoked = store.revoke(minted.key.id, who="bob")
    assert revoked.revoked_at is not None
    assert store.listing().keys == {}
    assert store.list_keys() == (revoked,)
    assert store.revoke(revoked.id, who="eve") == revoked, "the first revocation stands"
    assert [entry.who for entry in store.audit()] == ["bob", "ann"]
    with pytest.raises(NotFound):
        store.revoke("0" * 12, who="ann")


def test_every_change_raises_the_revision_and_use_does_not(store: AccessStore) -> None:
    revisions = [store.revision()]
    minted = store.mint(CI, who="ann")
    revisions.append(store.revision())
    store.revoke_token("acme", "t1", who="ann")
    revisions.append(store.revision())
    store.revoke(minted.key.id, who="ann")
    revisions.append(store.revision())
    assert revisions == [0, 1, 2, 3] == [*range(3), store.listing().revision]
    store.revoke(minted.key.id, who="ann")
    store.revoke_token("acme", "t1", who="ann")
    store.used({minted.key.id: datetime.now(UTC)})
    assert store.revision() == 3


def test_the_last_use_is_kept(store: AccessStore) -> None:
    ids = [store.mint(CI, who="ann").key.id for _ in range(3)]
    at = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
    store.used({ids[0]: at, ids[2]: at, "0" * 12: at})
    store.used({})
    assert {key.id: key.last_used_at for key in store.list_keys()} == {ids[0]: at, ids[1]: None, ids[2]: at}


def test_tenants_are_apart(store: AccessStore) -> None:
    store.mint(CI, who="ann")
    other = store.mint(NewKey("ci", "beta", GENERATE), who="ben").key
    assert store.list_keys("beta") == (other,)
    assert [entry.who for entry in store.audit("beta")] == ["ben"]
    assert len(store.list_keys()) == len(store.audit()) == 2
    store.revoke_token("acme", "t1", who="ann")
    assert store.listing().revoked_tokens == {("acme", "t1")}


def test_a_revocation_is_forgotten_a_day_after_its_token_has_expired(store: AccessStore) -> None:
    now = datetime.now(UTC)
    store.revoke_token("acme", "long gone", expires_at=now - timedelta(days=2), who="ann")
    store.revoke_token("acme", "just gone", expires_at=now - timedelta(hours=1), who="ann")
    store.revoke_token("acme", "for ever", who="ann")
    assert store.listing().revoked_tokens == {("acme", "just gone"), ("acme", "for ever")}


@pytest.mark.parametrize("later", [None, timedelta(days=30)])
def test_a_revocation_that_is_repeated_lasts_as_long_as_the_longer_one(
    store: AccessStore, later: timedelta | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    soon = now - timedelta(hours=12)
    store.revoke_token("acme", "t1", expires_at=soon, who="ann")
    store.revoke_token("acme", "t1", expires_at=None if later is None else now + later, who="ann")
    store.revoke_token("acme", "t1", expires_at=soon, who="ann")
    monkeypatch.setattr("adaptive_lora.access.store.KEPT_AFTER_EXPIRY", timedelta(0))
    store.revoke_token("acme", "t2", who="ann")  # forgets what is over
    assert store.listing().revoked_tokens == {("acme", "t1"), ("acme", "t2")}
    assert len(store.audit()) == 3, "the first, the longer one, and the other token"


def test_the_audit_log_tells_who_did_what(store: AccessStore) -> None:
    expires_at = datetime.now(UTC) + timedelta(days=1)
    minted = store.mint(NewKey("ci", "acme", GENERATE, frozenset({"b", "a"}), "gold", expires_at), who="ann")
    store.revoke_token("acme", "t1", who="bob")
    store.revoke(minted.key.id, who="eve")
    entries = store.audit()
    assert [(e.id, e.who, e.action, e.subject) for e in entries] == [
        (3, "eve", "key.revoke", minted.key.id),
        (2, "bob", "token.revoke", "t1"),
        (1, "ann", "key.mint", minted.key.id),
    ]
    assert entries[2].detail == {
        "name": "ci",
        "scopes": ["generate"],
        "agents": ["a", "b"],
        "tier": "gold",
        "expires_at": expires_at.isoformat(),
    }
    assert store.audit(limit=1) == entries[:1]
    assert store.audit(before_id=3) == entries[1:]
    with pytest.raises(InvalidRequest):
        store.audit(limit=0)


@pytest.mark.parametrize("statement", ["UPDATE access_audit SET who = 'x'", "DELETE FROM access_audit"])
def test_the_database_refuses_to_change_the_audit_log(
    store: AccessStore, database_url: str, statement: str
) -> None:
    store.mint(CI, who="ann")
    before = store.audit()
    if database_url.startswith("sqlite"):
        database = make_url(database_url).database
        assert database is not None
        with closing(sqlite3.connect(database)) as connection, pytest.raises(sqlite3.IntegrityError):
            connection.execute(statement)
    else:
        with psycopg.connect(database_url) as connection, pytest.raises(psycopg.errors.RaiseException):
            connection.execute(statement.encode())
    assert store.audit() == before


@pytest.mark.parametrize(
    "new",
    [
        NewKey("", "acme", GENERATE),
        NewKey("a\nb", "acme", GENERATE),
        NewKey("x" * 65, "acme", GENERATE),
        NewKey("ci", "Acme", GENERATE),
        NewKey("ci", "", GENERATE),
        NewKey("ci", "acme", frozenset()),
        NewKey("ci", "acme", GENERATE, frozenset({"../code"})),
        NewKey("ci", "acme", GENERATE, frozenset(map(str, range(257)))),
        NewKey("ci", "acme", GENERATE, tier="Gold"),
        NewKey("ci", "acme", GENERATE, expires_at=datetime.now(UTC) - timedelta(seconds=1)),
    ],
)
def test_what_cannot_stand_there_is_refused_and_leaves_nothing(store: AccessStore, new: NewKey) -> None:
    with pytest.raises(InvalidRequest):
        store.mint(new, who="ann")
    assert (store.list_keys(), store.audit(), store.revision()) == ((), (), 0)


@pytest.mark.parametrize(
    ("tenant", "jti"), [("Acme", "t"), ("acme", ""), ("acme", "x" * 256), ("acme", "a\nb")]
)
def test_a_token_that_cannot_be_is_not_revoked(store: AccessStore, tenant: str, jti: str) -> None:
    with pytest.raises(InvalidRequest):
        store.revoke_token(tenant, jti, who="ann")
    assert store.revision() == 0


def test_it_shares_the_registrys_database_and_not_its_revision(store: AccessStore, database_url: str) -> None:
    registry = Registry.open(database_url)
    store.mint(CI, who="ann")
    assert (registry.revision(), registry.history()) == (0, ())
    registry.close()
