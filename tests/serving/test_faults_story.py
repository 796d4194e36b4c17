"""Two gateways with everything on, real Redis, real PostgreSQL and workers, under a steady load: each of them
is killed or frozen, and comes back. What is promised for it happens; no request hangs; nobody restarts a
gateway; each change of state is one line in each log."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from adaptive_lora.access.records import NewKey
from adaptive_lora.access.store import AccessStore
from tests.engine.remote.fake_worker import KEY
from tests.engine.remote.fake_worker_process import FakeWorkerProcess
from tests.postgres import PostgresServer, started_or_skipped
from tests.redis_servers import RedisServer, SentinelGroup, plain_server, skip_without
from tests.serving.gateway_process import GatewayProcess
from tests.serving.steady_load import SteadyLoad

N_GATEWAYS = 2
BURST = 8
LIST_SERVES_S = 6.0
"""How long these gateways go on with the last list of credentials: 300 s in production."""
DOWN_S = [2.0, pytest.param(30.0, marks=pytest.mark.acceptance)]
DATABASE_GOES, DATABASE_COMES = "the registry is not available", "the registry is available again"
LIST_GOES, LIST_COMES = "credentials are checked with what is known", "the store of credentials is back"
FLEET_GOES, FLEET_COMES = "the fleet stays as it is", "the fleet follows the registry again"
REDIS_GOES, REDIS_COMES = "Redis is away", "Redis answers again"


class Site:
    """The gateways and what they need."""

    def __init__(self, folder: Path, database_url: str, redis: dict[str, Any]) -> None:
        self.store = AccessStore.open(database_url)
        self._key = self.headers_of("load")
        self.workers = [FakeWorkerProcess(token_s=0.005) for _ in range(2)]
        self.gateways = [
            GatewayProcess(
                constants={"adaptive_lora.serving.auth.credentials.MAX_AGE_S": LIST_SERVES_S},
                api={"timeout": 10},
                auth={"enabled": True},
                registry={"database_url": database_url},
                redis=redis | {"timeout": 1.0},  # a busy machine is no outage
                inference={"cache_enabled": True},
                rate_limiting={
                    "enabled": True,
                    "requests_per_minute": None,
                    "replicas": N_GATEWAYS,
                    "tiers": {"few": {"requests_per_minute": 1, "burst_size": BURST}},
                },
                model={"engine": "remote", "base_model": "fake"},
                workers={
                    "urls": [worker.url for worker in self.workers],
                    "api_key": KEY,
                    "refresh_interval": 0.2,
                    "canary_interval": 1.0,
                    "first_token_timeout": 5.0,
                    "chunk_timeout": 5.0,
                },
                storage={"path": folder / f"gateway-{i}"},
            )
            for i in range(N_GATEWAYS)
        ]
        for gateway in self.gateways:
            gateway.wait_until_ready()
        self._n_lines = [0] * N_GATEWAYS
        self.mark()

    def headers_of(self, tenant: str, tier: str = "default") -> dict[str, str]:
        """Of a new key of the tenant."""
        key = NewKey(name=tenant, tenant=tenant, scopes=frozenset({"generate"}), tier=tier)
        return {"authorization": f"Bearer {self.store.mint(key, who='tests').secret}"}

    def load(self) -> SteadyLoad:
        return SteadyLoad([gateway.url for gateway in self.gateways], self._key)

    def mark(self) -> None:
        """`news` begins here."""
        self._n_lines = [len(gateway.messages()) for gateway in self.gateways]

    def news(self) -> list[list[str]]:
        """What each gateway has logged since `mark`."""
        return [g.messages()[n:] for g, n in zip(self.gateways, self._n_lines, strict=True)]

    async def until_all_say(self, *words: str) -> None:
        async with asyncio.timeout(60):
            while not all(  # noqa: ASYNC110 - it is a file
                any(word in line for line in news) for news in self.news() for word in words
            ):
                await asyncio.sleep(0.05)

    def assert_each_said_once(self, *words: str) -> None:
        """These and nothing else, in this order."""
        for news in self.news():
            assert len(news) == len(words), news
            for line, word in zip(news, words, strict=True):
                assert word in line

    async def assert_alive_and_ready(self) -> None:
        """Probes ask neither Redis nor the database: a restart would mend none of them."""
        async with httpx.AsyncClient(timeout=60) as client:
            for gateway in self.gateways:
                for probe in ("live", "ready"):
                    assert (await client.get(f"{gateway.url}/{probe}")).status_code == 200

    async def n_accepted(self, tenant: str) -> list[int]:
        """By each gateway, of requests of a new tenant who may make `BURST` at once."""
        headers = self.headers_of(tenant, tier="few")
        counts = []
        async with httpx.AsyncClient(headers=headers, timeout=60) as client:
            for gateway in self.gateways:
                await self._known(client, gateway)
                body = {"prompt": tenant, "max_tokens": 1}
                posts = (client.post(f"{gateway.url}/generate", json=body) for _ in range(BURST + 2))
                statuses = Counter(answer.status_code for answer in await asyncio.gather(*posts))
                assert set(statuses) <= {200, 429}
                counts.append(statuses[200])
        return counts

    async def _known(self, client: httpx.AsyncClient, gateway: GatewayProcess) -> None:
        """Wait until the gateway has heard of the client's key; costs no request."""
        while "detail" not in (await client.get(f"{gateway.url}/health")).json():  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    def close(self) -> None:
        for gateway in self.gateways:
            gateway.close()
        for worker in self.workers:
            worker.kill()
        self.store.close()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """Of its own, since it is killed and frozen."""
    with started_or_skipped() as server:
        yield server


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    skip_without("redis-server")
    server = plain_server()
    yield server
    server.close()


@contextmanager
def a_site(folder: Path, postgres: PostgresServer, redis: dict[str, Any]) -> Iterator[Site]:
    site = Site(folder, postgres.url(postgres.new_database()), redis)
    try:
        yield site
    finally:
        site.close()


@pytest.fixture(scope="module")
def shared_site(
    postgres: PostgresServer, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with a_site(tmp_path_factory.mktemp("site"), postgres, {"url": redis_server.url}) as site:
        yield site


@pytest.fixture
async def site(shared_site: Site) -> AsyncIterator[Site]:
    """The same gateways for every test: each leaves them as it found them."""
    shared_site.mark()
    yield shared_site
    await shared_site.assert_alive_and_ready()


Fault = Callable[[RedisServer], None]


def kill(server: RedisServer) -> None:
    server.stop(signal.SIGKILL)


@pytest.mark.parametrize("down_s", DOWN_S)
@pytest.mark.parametrize(
    ("goes", "comes"),
    [
        pytest.param(kill, RedisServer.start, id="killed"),
        pytest.param(RedisServer.freeze, RedisServer.thaw, id="frozen"),
    ],
)
async def test_redis_goes_and_comes_back(
    site: Site, redis_server: RedisServer, goes: Fault, comes: Fault, down_s: float
) -> None:
    """The cache fails open; each gateway allows its part of the limits; nothing fails."""
    load = site.load()
    async with load.running():
        await load.more()
        assert sum(await site.n_accepted(f"before-{goes.__name__}-{down_s:g}")) == BURST
        goes(redis_server)
        try:
            await site.until_all_say(REDIS_GOES)
            await site.assert_alive_and_ready()
            assert await site.n_accepted(f"during-{goes.__name__}-{down_s:g}") == [BURST // 2, BURST // 2]
            await asyncio.sleep(down_s)
        finally:
            comes(redis_server)
        await site.until_all_say(REDIS_COMES)
        await load.more()
        assert sum(await site.n_accepted(f"after-{goes.__name__}-{down_s:g}")) == BURST
    assert set(load.outcomes.values()) == {"200"}
    site.assert_each_said_once(REDIS_GOES, REDIS_COMES)


@pytest.mark.acceptance
async def test_sentinels_fail_over(postgres: PostgresServer, tmp_path: Path) -> None:
    """As an outage, until the Sentinels have agreed; one of them dies with the primary."""
    skip_without("redis-server")
    group = SentinelGroup()
    redis = {"url": f"redis://{group.name}:6379/0", "sentinels": list(group.addresses)}
    try:
        with a_site(tmp_path, postgres, redis) as site:
            load = site.load()
            async with load.running():
                await load.more()
                kill(group.primary)
                kill(group.sentinels[0])
                await site.until_all_say(REDIS_GOES)
                await site.until_all_say(REDIS_COMES)
                await load.more()
                assert sum(await site.n_accepted("after")) == BURST
            assert set(load.outcomes.values()) == {"200"}
            site.assert_each_said_once(REDIS_GOES, REDIS_COMES)
    finally:
        group.close()


DatabaseFault = Callable[[PostgresServer], None]


@pytest.mark.acceptance
@pytest.mark.parametrize("down_s", DOWN_S)
@pytest.mark.parametrize(
    ("goes", "comes"),
    [
        pytest.param(PostgresServer.stop, PostgresServer.start, id="stopped"),
        pytest.param(PostgresServer.freeze, PostgresServer.thaw, id="frozen"),
    ],
)
async def test_the_database_goes_and_comes_back(
    site: Site, postgres: PostgresServer, goes: DatabaseFault, comes: DatabaseFault, down_s: float
) -> None:
    """Who was known is served for as long as the last list may serve, and then nobody."""
    load = site.load()
    async with load.running():
        await load.more()
        goes(postgres)
        try:
            assert set(await load.more()) == {"200"}
            await site.until_all_say(LIST_GOES)
            await site.assert_alive_and_ready()
            await asyncio.sleep(down_s)
            while set(await load.more(2 * N_GATEWAYS)) != {"503 registry_unavailable"}:
                pass
        finally:
            comes(postgres)
        await site.until_all_say(LIST_COMES)
        assert set(await load.more()) == {"200"}
        await site.until_all_say(FLEET_COMES)
    assert set(load.outcomes.values()) == {"200", "503 registry_unavailable"}
    await site.until_all_say(DATABASE_COMES)
    for news in site.news():
        for word in (DATABASE_GOES, LIST_GOES, FLEET_GOES, DATABASE_COMES, LIST_COMES, FLEET_COMES):
            assert len([line for line in news if word in line]) == 1, news
        assert len(news) == 6, "\n".join(news)


async def test_a_worker_is_killed_in_mid_stream(site: Site) -> None:
    """Its streams end with an error, those of the other one go on, and so do new requests."""
    body = {"prompt": "x", "max_tokens": 200, "ignore_eos": True, "stream": True}
    headers = site.headers_of("streams")

    async def stream(client: httpx.AsyncClient, i: int) -> str:
        gateway = site.gateways[i % N_GATEWAYS]
        await site._known(client, gateway)
        text = ""
        async with client.stream(
            "POST", f"{gateway.url}/generate", json=body | {"prompt": f"x{i}"}
        ) as answer:
            assert answer.status_code == 200
            async for piece in answer.aiter_text():
                text += piece
                begun.add(i)
        return text.strip().rpartition("\n\n")[2]

    begun: set[int] = set()
    load = site.load()
    async with load.running(), httpx.AsyncClient(headers=headers, timeout=60) as client:
        await load.more()
        streams = [asyncio.create_task(stream(client, i)) for i in range(20)]
        async with asyncio.timeout(60):
            while len(begun) < len(streams):  # noqa: ASYNC110 - many tasks fill it
                await asyncio.sleep(0.01)
        site.workers[0].kill()
        last = [event.splitlines() for event in await asyncio.gather(*streams)]
        ends = Counter(event for event, _ in last)
        assert set(ends) == {"event: done", "event: error"}, ends
        codes = {json.loads(data[6:])["error"]["code"] for event, data in last if event == "event: error"}
        assert codes == {"worker_lost"}
        assert set(await load.more()) == {"200"}
        site.workers[0].start()
        await site.until_all_say("joins")
        assert set(await load.more()) == {"200"}
    assert set(load.outcomes.values()) <= {"200", "503 worker_lost"}
    for news in site.news():
        changes = [line for line in news if not line.startswith("stream failed")]  # one of each stream
        assert len(changes) == 2, changes
        assert "cannot be connected to" in changes[0]
        assert "joins" in changes[1]
