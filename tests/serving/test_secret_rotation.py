"""The drill of docs/runbooks/secret-rotation.md: its commands, against gateways with real PostgreSQL and
Redis, under load. No request fails."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from adaptive_lora.access.records import NewKey
from adaptive_lora.access.store import AccessStore
from tests.deploy.runbooks import typed
from tests.postgres import PostgresServer
from tests.project.doc_blocks import block_with
from tests.redis_servers import RedisServer, skip_without
from tests.serving.auth.signing import ED_KEYS, bearer, jwk, token, write_jwks
from tests.serving.gateway_process import GatewayProcess

PAGE = "docs/runbooks/secret-rotation.md"
ROLE, USER = "adaptive_lora", "gateway"
FIRST = "first@:/password"

Credential = Callable[[], str]


@dataclass
class Site:
    secrets: Path
    gateways: list[GatewayProcess]
    """Two that ask for API keys or tokens with a secret, and one that believes an identity provider."""
    database_url: str
    admin: Mapping[str, str]
    """Where the page's commands find what they change."""
    redis: RedisServer

    async def typed(self, words: str, **environment: str) -> str:
        """The page's block that has these words."""
        environ = {**self.admin, "SECRETS": str(self.secrets), **environment}
        return await asyncio.to_thread(typed, block_with(PAGE, words).text, environ)

    def signing(self) -> str:
        """The secret that signs, as whoever shares the file with the gateways reads it."""
        return (self.secrets / "jwt_secrets").read_text().split()[0]


@pytest.fixture(scope="module")
def site(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    skip_without("redis-server")
    folder = tmp_path_factory.mktemp("rotation")
    (folder / "jwt_secrets").write_text(secrets.token_urlsafe(48) + "\n")
    for name in ("postgres_password", "redis_password"):
        (folder / name).write_text(FIRST + "\n")
    write_jwks(folder / "jwks.json", jwk(ED_KEYS[0], "old"))
    name = postgres.new_database()
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{FIRST}'".encode())
        connection.execute(f"ALTER DATABASE {name} OWNER TO {ROLE}".encode())
    common: dict[str, Any] = {
        "registry": {
            "database_url": f"postgresql://{ROLE}@127.0.0.1:{postgres.port}/{name}",
            "password_file": folder / "postgres_password",
        },
        "inference": {"cache_enabled": True},
        "rate_limiting": {"enabled": True, "requests_per_minute": 1_000_000, "burst_size": 1_000_000},
    }
    tokens = [{"jwt_secret_file": folder / "jwt_secrets"}] * 2
    tokens.append({"algorithm": "EdDSA", "jwks_file": folder / "jwks.json"})
    with ExitStack() as stack:
        redis = stack.enter_context(
            closing(RedisServer(config=['save ""', f"user {USER} on >{FIRST} ~* +@all"]))
        )
        common["redis"] = {
            "url": f"redis://{USER}@127.0.0.1:{redis.port}/0",
            "password_file": folder / "redis_password",
            "timeout": 1.0,  # a busy machine is no outage
        }

        def started(number: int) -> GatewayProcess:
            auth = {"enabled": True, **tokens[number]}
            return GatewayProcess(auth=auth, storage={"path": folder / f"state-{number}"}, **common)

        pool = stack.enter_context(ThreadPoolExecutor())  # processes end with the thread that started them
        gateways = [stack.enter_context(closing(each)) for each in pool.map(started, range(len(tokens)))]
        for gateway in gateways:
            gateway.wait_until_ready()
        admin = {"DATABASE_ADMIN_URL": postgres.url(name), "REDIS_ADMIN_URL": redis.url}
        yield Site(folder, gateways, postgres.url(name), admin, redis)
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
        connection.execute(f"DROP ROLE {ROLE}".encode())


class Load:
    """What became of the requests, by who asked."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()

    async def more(self) -> None:
        """Until each caller has had some more answers."""
        enough = {who: self.n(who) + 5 for who, _ in self.outcomes}
        while not all(self.n(who) >= n for who, n in enough.items()):  # noqa: ASYNC110 - tasks fill it
            await asyncio.sleep(0.01)

    def n(self, who: str) -> int:
        return sum(n for (name, _), n in self.outcomes.items() if name == who)

    def nothing_failed(self) -> None:
        assert {outcome for _, outcome in self.outcomes} == {"200"}, self.outcomes
        print(dict(self.outcomes))


@asynccontextmanager
async def load(callers: Mapping[str, tuple[GatewayProcess, Credential]]) -> AsyncIterator[Load]:
    """Each caller asks all the time, one request after the other; half of the answers are kept ones."""
    found = Load()

    is_over = asyncio.Event()

    async def ask(who: str, gateway: GatewayProcess, credential: Credential) -> None:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
            for i in itertools.count():
                if is_over.is_set():
                    return
                body = {"prompt": f"{who} {i // 2}", "max_tokens": 4}
                try:
                    answer = await client.post("/generate", json=body, headers=bearer(credential()))
                    outcome = str(answer.status_code)
                except httpx.HTTPError as error:
                    outcome = type(error).__name__
                found.outcomes[who, outcome] += 1
                await asyncio.sleep(0.05)

    for who in callers:
        found.outcomes[who, "200"] = 0
    tasks = [asyncio.create_task(ask(who, *how)) for who, how in callers.items()]
    try:
        await found.more()
        yield found
        await found.more()
    finally:
        is_over.set()
        await asyncio.gather(*tasks)


async def status(gateway: GatewayProcess, credential: str) -> int:
    async with httpx.AsyncClient(base_url=gateway.url, headers=bearer(credential)) as client:
        return (await client.get("/v1/models")).status_code


async def until_answered(gateway: GatewayProcess, credential: str, code: int) -> None:
    async with asyncio.timeout(60):
        while await status(gateway, credential) != code:  # noqa: ASYNC110 - it is the gateway's state
            await asyncio.sleep(0.05)


async def until_known(site: Site, key: str) -> None:
    for gateway in site.gateways:
        await until_answered(gateway, key, 200)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - a process's log, a server's state
            await asyncio.sleep(0.02)


async def until_read(gateways: list[GatewayProcess], line: str, times: int = 1) -> None:
    await until(lambda: all(gateway.messages().count(line) >= times for gateway in gateways))


async def test_the_secret_of_tokens(site: Site) -> None:
    """Callers who sign each token anew, and callers who use a token to its end."""
    one, other, _ = site.gateways
    old = site.signing()
    kept = token(old)
    anew: Credential = lambda: token(site.signing())  # noqa: E731 - it is a value
    callers = {"anew, one": (one, anew), "anew, other": (other, anew)}
    are = "the secrets of tokens are read again; there are {}"
    async with load(callers) as fresh:
        async with load({"kept, one": (one, lambda: kept), "kept, other": (other, lambda: kept)}) as holding:
            await site.typed("cat jwt_secrets")
            await until_read([one, other], are.format(2))
            await fresh.more()
            await site.typed("tail -1 jwt_secrets")
            await until_read([one, other], are.format(2), times=2)
            await fresh.more()
            assert site.signing() != old
        holding.nothing_failed()
        await site.typed("head -1 jwt_secrets > jwt_secrets.new")
        await until_read([one, other], are.format(1))
    fresh.nothing_failed()
    assert (site.secrets / "jwt_secrets").stat().st_mode & 0o077 == 0
    for gateway in (one, other):
        assert await status(gateway, kept) == 401
    assert await site.typed("token mint rotation", GATEWAY=one.url) == "200\n"


async def test_an_identity_providers_keys(site: Site) -> None:
    gateway = site.gateways[2]
    kids = ["old"]

    def signed(kid: str) -> str:
        return token(ED_KEYS[["old", "new"].index(kid)], "EdDSA", headers={"kid": kid})

    async with load({"provider": (gateway, lambda: signed(kids[-1]))}) as callers:
        (site.secrets / "new.json").write_text(json.dumps({"keys": [jwk(ED_KEYS[1], "new")]}))
        await site.typed("jwks.json new.json")
        await until_read([gateway], "the keys of tokens are now 'old', 'new'")
        assert await status(gateway, signed("old")) == 200
        kids.append("new")
        await callers.more()
        await site.typed('"$OLD_KID"', OLD_KID="old")
        await until_read([gateway], "the keys of tokens are now 'new'")
    callers.nothing_failed()
    assert await status(gateway, signed("old")) == 401


async def test_api_keys(site: Site) -> None:
    with closing(AccessStore.open(site.database_url)) as store:
        old_id, old = _minted(store)
    key = [old]
    environ = {"DATABASE_URL": site.database_url}
    asked = {f"shop, {i}": (gateway, lambda: key[-1]) for i, gateway in enumerate(site.gateways)}
    await until_known(site, old)
    async with load(asked) as callers:
        (new,) = re.findall(r"alk_\w{12}_[\w-]{43}", await site.typed("keys mint shop", **environ))
        await until_known(site, new)
        key.append(new)
        await callers.more()
        await site.typed("keys revoke", OLD_ID=old_id, **environ)
        for gateway in site.gateways:
            await until_answered(gateway, old, 401)
    callers.nothing_failed()


def _minted(store: AccessStore) -> tuple[str, str]:
    """Id and key."""
    minted = store.mint(NewKey(name="shop", tenant="acme", scopes=frozenset({"generate"})), who="drill")
    return minted.key.id, minted.secret


async def test_postgresql(site: Site) -> None:
    with closing(AccessStore.open(site.database_url)) as store:
        _, key = _minted(store)
        await until_known(site, key)
        asked = {f"shop, {i}": (gateway, lambda: key) for i, gateway in enumerate(site.gateways)}
        async with load(asked) as callers:
            await site.typed("ALTER ROLE")
            await callers.more()
            assert (site.secrets / "postgres_password").read_text().strip() != FIRST
            assert int(await site.typed("pg_terminate_backend")) >= len(site.gateways)
            await until_known(site, _minted(store)[1])  # for which each gateway has to ask the database
        callers.nothing_failed()
    for password in (FIRST, "wrong"):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(site.database_url, user=ROLE, password=password)


async def test_redis(site: Site) -> None:
    with closing(AccessStore.open(site.database_url)) as store, closing(site.redis.client()) as admin:
        _, key = _minted(store)
        await until_known(site, key)
        asked = {f"shop, {i}": (gateway, lambda: key) for i, gateway in enumerate(site.gateways)}

        def connected() -> int:
            return sum(client["user"] == USER for client in admin.client_list())

        async with load(asked) as callers:
            assert "OK" in await site.typed("ACL SETUSER gateway >$new")
            await callers.more()
            assert connected() >= len(site.gateways)
            assert "OK" in await site.typed("resetpass")
            await until(lambda: connected() >= len(site.gateways))
            await callers.more()
        callers.nothing_failed()
        assert len(admin.acl_getuser(USER)["passwords"]) == 1
    for gateway in site.gateways:
        lines = [line for line in gateway.messages() if line.startswith("Redis ")]
        assert sum("is away" in line for line in lines) == lines.count("Redis answers again")
