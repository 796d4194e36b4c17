"""From a header to a principal; what is remembered, and for how long."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from adaptive_lora.access.records import NewKey
from adaptive_lora.access.store import AccessStore
from adaptive_lora.adapters.registry_database import sqlite_url
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.errors import RegistryUnavailable, Unauthenticated
from adaptive_lora.secret_files import LOOK_EVERY_S
from adaptive_lora.serving import loading
from adaptive_lora.serving.auth import gate as gate_module
from adaptive_lora.serving.auth.credentials import MAX_AGE_S, POLL_INTERVAL_S, Credentials
from adaptive_lora.serving.auth.gate import Gate
from adaptive_lora.serving.auth.keyring import JWKSKeyring, SecretKeyring
from adaptive_lora.serving.auth.tokens import TokenVerifier
from adaptive_lora.serving.principal import Principal
from adaptive_lora.settings import Settings
from tests.postgres import PostgresServer
from tests.serving.conftest import ready, until

from .signing import ED_KEYS, NAME, SECRET, bearer, jwk, token, write_jwks

CI = NewKey("ci", "acme", frozenset({"generate"}), frozenset({"code"}))


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AccessStore]:
    store = AccessStore.open(sqlite_url(tmp_path / "registry.db"))
    yield store
    store.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def credentials(tmp_path: Path, store: AccessStore, clock: Clock) -> AsyncIterator[Credentials]:
    """Looks at the store when it is told to."""
    credentials = Credentials(lambda: AccessStore.open(sqlite_url(tmp_path / "registry.db")), clock=clock)
    await credentials.refresh()
    yield credentials
    await credentials.stop()


@pytest.fixture
def gate(credentials: Credentials) -> Gate:
    return Gate(credentials, TokenVerifier(SecretKeyring(SECRET), issuer=NAME, audience=NAME, leeway_s=0))


def who(gate: Gate, credential: str, scheme: str = "Bearer") -> Principal | None:
    return gate.identify([(b"host", b"x"), (b"authorization", f"{scheme} {credential}".encode("latin-1"))])


async def test_a_key_and_a_token_are_recognised(
    gate: Gate, store: AccessStore, credentials: Credentials
) -> None:
    minted = store.mint(CI, who="ann")
    with pytest.raises(Unauthenticated):
        who(gate, minted.secret)
    await credentials.refresh()
    expected = Principal("ci", "acme", CI.scopes, CI.agents, minted.key.id, credential="key")
    for scheme in ("Bearer", "bearer", "BEARER", "Bearer "):
        assert who(gate, minted.secret, scheme) == expected
        principal = who(gate, token(sub="bob"), scheme)
        assert principal is not None
        assert principal.subject == "bob"
    assert gate.identify([(b"host", b"x")]) is None


@pytest.mark.parametrize(
    "headers",
    [
        [b""], [b"Bearer"], [b"Bearer "], [b"Basic YTpi"], [b"alk_"], [b"Bearer alk_"], [b"Bearer \xff\xfe"],
        [b"Bearer a b"], [b"Token x"], [b"Bearer alk_000000000000_" + b"x" * 43], [b"Bearer x", b"Bearer x"],
        [b"Bearer " + b"x" * 60_000],
    ],
)  # fmt: skip
def test_what_proves_nothing_is_refused(gate: Gate, headers: list[bytes]) -> None:
    with pytest.raises(Unauthenticated):
        gate.identify([(b"authorization", value) for value in headers])


async def test_a_good_credential_does_not_excuse_a_second_one(gate: Gate) -> None:
    good = f"Bearer {token()}".encode()
    for headers in ([good, b"Bearer x"], [good, good]):
        with pytest.raises(Unauthenticated, match="several"):
            gate.identify([(b"authorization", value) for value in headers])


async def test_another_key_with_the_same_id_is_refused(
    gate: Gate, store: AccessStore, credentials: Credentials
) -> None:
    secret = store.mint(CI, who="ann").secret
    await credentials.refresh()
    changed = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    with pytest.raises(Unauthenticated):
        who(gate, changed)
    assert who(gate, secret)


async def test_an_expired_key_is_refused(store: AccessStore, credentials: Credentials) -> None:
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    secret = store.mint(NewKey("ci", "acme", CI.scopes, expires_at=expires_at), who="ann").secret
    await credentials.refresh()
    clock = Clock()
    gate = Gate(credentials, None, clock=clock)
    clock.now = expires_at.timestamp() - 1
    assert who(gate, secret)
    clock.now = expires_at.timestamp()
    with pytest.raises(Unauthenticated, match="expired"):
        who(gate, secret)


async def test_revocation_is_for_the_key_and_for_the_tenants_token(
    gate: Gate, store: AccessStore, credentials: Credentials
) -> None:
    minted = store.mint(CI, who="ann")
    await credentials.refresh()
    tokens = {tenant: token(tenant=tenant, jti="t1") for tenant in ("acme", "beta")}
    for credential in (minted.secret, *tokens.values()):
        assert who(gate, credential)
    store.revoke(minted.key.id, who="ann")
    store.revoke_token("acme", "t1", who="ann")
    await credentials.refresh()
    for credential in (minted.secret, tokens["acme"]):
        with pytest.raises(Unauthenticated):
            who(gate, credential)
    assert who(gate, tokens["beta"]), "another tenant's jti is another"


async def test_a_remembered_token_expires_all_the_same(credentials: Credentials) -> None:
    clock = Clock()
    clock.now = time.time()
    verifier = TokenVerifier(SecretKeyring(SECRET), issuer=NAME, audience=NAME, leeway_s=0)
    gate = Gate(credentials, verifier, clock=clock)
    credential = token(exp=int(time.time()) + 2)
    assert who(gate, credential) is who(gate, credential), "verified once"
    clock.now += 3600
    assert gate._known
    await asyncio.sleep(3)  # PyJWT has the system's clock
    with pytest.raises(Unauthenticated, match="expired"):
        who(gate, credential)
    assert not gate._known


async def test_a_removed_key_takes_remembered_tokens_with_it(
    credentials: Credentials, tmp_path: Path
) -> None:
    clock = Clock()
    path = write_jwks(tmp_path / "jwks.json", jwk(ED_KEYS[0], "a"))
    keyring = JWKSKeyring(path, "EdDSA", clock=clock)
    gate = Gate(credentials, TokenVerifier(keyring, issuer=NAME, audience=NAME, leeway_s=0))
    credential = token(ED_KEYS[0], "EdDSA", headers={"kid": "a"})
    assert who(gate, credential)
    write_jwks(path, jwk(ED_KEYS[1], "b"))
    assert who(gate, credential), "the file has not been looked at yet"
    clock.now += LOOK_EVERY_S
    with pytest.raises(Unauthenticated):
        who(gate, credential)


def test_the_memory_is_bounded(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "MAX_KNOWN", 10)
    credentials = [token(sub=f"user-{i}") for i in range(30)]
    for credential in credentials:
        assert who(gate, credential)
    assert len(gate._known) == 10
    assert who(gate, credentials[0])
    for i in range(30):
        with pytest.raises(Unauthenticated):
            who(gate, f"{i}.{i}.{i}")
    assert len(gate._known) == 10, "what is refused is not remembered"


def test_a_token_where_there_are_keys_only(credentials: Credentials) -> None:
    with pytest.raises(Unauthenticated, match="API key"):
        who(Gate(credentials, None), token())


# The store


def test_revocation_reaches_every_process_within_five_seconds() -> None:
    """A look a second, plus the query's own time limit of 5 s in the worst case; usually milliseconds."""
    assert POLL_INTERVAL_S <= 1.0
    assert MAX_AGE_S == 300.0


@asynccontextmanager
async def following(url: str, **options: object) -> AsyncIterator[Credentials]:
    credentials = Credentials(
        lambda: AccessStore.open(url, timeout_s=0.5),
        poll_interval_s=0.05,
        **options,  # type: ignore[arg-type]
    )
    credentials.start()
    try:
        yield credentials
    finally:
        await credentials.stop()


def knows(credentials: Credentials, key_id: str) -> Callable[[], bool]:
    return lambda: credentials._listing is not None and credentials.key(key_id) is not None


async def test_processes_follow_the_store(database_url: str) -> None:
    store = AccessStore.open(database_url)
    async with following(database_url) as one, following(database_url) as other:
        minted = store.mint(CI, who="ann")
        await until(knows(one, minted.key.id))
        await until(knows(other, minted.key.id))
        store.revoke_token("acme", "t1", who="ann")
        await until(lambda: one.is_revoked("acme", "t1") and other.is_revoked("acme", "t1"))
        store.revoke(minted.key.id, who="ann")
        await until(lambda: one.key(minted.key.id) is None and other.key(minted.key.id) is None)
    store.close()


async def test_before_the_first_look_nobody_is_known(clock: Clock) -> None:
    def away() -> AccessStore:
        raise RegistryUnavailable("away")

    credentials = Credentials(away, clock=clock)
    gate = Gate(credentials, TokenVerifier(SecretKeyring(SECRET), issuer=NAME, audience=NAME, leeway_s=0))
    for credential in (token(), token(jti="t1"), "alk_000000000000_" + "x" * 43):
        with pytest.raises(RegistryUnavailable):
            who(gate, credential)
    with pytest.raises(RegistryUnavailable):
        _ = credentials.store


async def test_a_server_is_not_ready_before_it_knows_who_may_call(
    build: Callable[..., FastAPI], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_access = loading.open_access
    is_up = False

    def opening(settings: Settings) -> AccessStore:
        if not is_up:
            raise RegistryUnavailable("away")
        return open_access(settings)

    monkeypatch.setattr(loading, "open_access", opening)
    app = build(engine=FakeEngine(), auth={"enabled": True, "jwt_secret": SECRET})
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
    ):
        await until(lambda: app.state.runtime.detail == "reading who may call")
        assert (await client.get("/ready")).status_code == 503
        is_up = True
        await ready(client)
        answer = await client.post("/route", json={"prompt": "x"}, headers=bearer(token()))
        assert answer.status_code == 200


async def test_while_the_store_is_away_the_last_list_serves_for_300_s_and_no_longer(
    postgres: PostgresServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    url = postgres.url(postgres.new_database())
    clock = Clock()
    store = AccessStore.open(url)
    secret = store.mint(CI, who="ann").secret
    async with following(url, clock=clock) as credentials:
        gate = Gate(credentials, TokenVerifier(SecretKeyring(SECRET), issuer=NAME, audience=NAME, leeway_s=0))
        await until(lambda: credentials._listing is not None)
        for away, back in ((postgres.stop, postgres.start), (postgres.freeze, postgres.thaw)):
            caplog.clear()
            away()
            try:
                await until(lambda: credentials._is_away)
                known_at = credentials._known_at
                clock.now = known_at + MAX_AGE_S
                assert who(gate, secret)
                assert who(gate, token())
                clock.now = known_at + MAX_AGE_S + 1
                for credential in (secret, token(), token(jti="t1")):
                    with pytest.raises(RegistryUnavailable, match="300 s"):
                        who(gate, credential)
            finally:
                back()
            await until(lambda: not credentials._is_away)
            assert who(gate, secret), "it recovers by itself"
            said = [record.levelname for record in caplog.records if record.name.endswith("credentials")]
            assert said == ["ERROR", "INFO"], "one line per change of state"
    store.close()


async def test_an_error_that_nobody_expected_does_not_end_the_following(
    tmp_path: Path, store: AccessStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A right is withdrawn, a table is away during a migration: afterwards revocations are seen again."""
    path = tmp_path / "registry.db"
    minted = store.mint(CI, who="ann")
    credentials = Credentials(lambda: AccessStore.open(sqlite_url(path)), poll_interval_s=0.01)
    credentials.start()
    try:
        await credentials.known()
        with closing(sqlite3.connect(path)) as database:
            database.execute("ALTER TABLE access_state RENAME TO hidden")
            await until(lambda: "no such table" in caplog.text)
            database.execute("ALTER TABLE hidden RENAME TO access_state")
        store.revoke(minted.key.id, who="ann")
        await until(lambda: credentials.key(minted.key.id) is None)
    finally:
        await credentials.stop()
    assert sum(record.exc_info is not None for record in caplog.records) == 1  # not at each look


async def test_the_last_use_is_written_once_a_minute(
    gate: Gate, store: AccessStore, credentials: Credentials, clock: Clock
) -> None:
    minted = store.mint(CI, who="ann")
    await credentials.refresh()
    writes = []
    used = credentials.store.used
    credentials.store.used = lambda moments: (writes.append(dict(moments)), used(moments))[1]  # type: ignore[method-assign]
    for _ in range(180):
        clock.now += 1.0
        assert who(gate, minted.secret)
        await credentials.refresh()
        await credentials._write_used()
    assert len(writes) == 3
    last_used_at = store.key(minted.key.id).last_used_at
    assert last_used_at is not None
    assert store.revision() == 1
