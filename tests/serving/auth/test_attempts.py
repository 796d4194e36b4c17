"""Credentials that prove nothing are limited by address, and lock nobody out."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.redis_servers import RedisServer
from tests.serving.auth.conftest import Gateway, OpenGateway
from tests.serving.auth.signing import SECRET, bearer, token

LIMIT = 3


@pytest.fixture
async def gateway(open_gateway: OpenGateway) -> AsyncIterator[Gateway]:
    """Behind a proxy, which names the callers."""
    async with open_gateway(
        auth={"failures_per_minute": LIMIT}, api={"trusted_proxies": ["127.0.0.1"]}
    ) as gateway:
        yield gateway


async def ask(
    gateway: Gateway, credential: str | None, address: str = "192.0.2.1", path: str = "/v1/models"
) -> httpx.Response:
    headers = {"x-forwarded-for": address} | ({} if credential is None else bearer(credential))
    return await gateway.client.get(path, headers=headers)


async def test_beyond_the_limit_they_are_told_to_wait(gateway: Gateway) -> None:
    guesses = ["x", token(aud="other"), "alk_000000000000_" + "x" * 43, "y"]
    answers = [await ask(gateway, guess) for guess in guesses]
    assert [answer.status_code for answer in answers] == [401] * LIMIT + [429]
    assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60 / LIMIT
    body = {"prompt": "x"}
    headers = bearer("z") | {"x-forwarded-for": "192.0.2.1"}
    assert (await gateway.client.post("/generate", json=body, headers=headers)).status_code == 429
    metrics = (await ask(gateway, token(scope="metrics"), path="/metrics")).text
    assert 'rate_limited_total{reason="attempts"} 2.0' in metrics


async def test_who_is_right_is_believed_whatever_the_neighbours_send(gateway: Gateway) -> None:
    """Many callers share an address: none of them can lock out the others."""
    for _ in range(LIMIT + 2):
        await ask(gateway, "x")
    assert (await ask(gateway, "x")).status_code == 429
    assert (await ask(gateway, token())).status_code == 200
    assert (await ask(gateway, token(sub="new"))).status_code == 200
    assert (await ask(gateway, None)).status_code == 401, "no credential is no attempt"
    assert (await ask(gateway, "x", path="/live")).status_code == 200, "an open route is open"


async def test_each_address_has_its_own_limit(gateway: Gateway) -> None:
    """Of IPv6 a whole network is one: whoever has one address there has all of them."""
    for i in range(LIMIT + 1):
        last = await ask(gateway, "x", f"2001:db8::{i}")
    assert last.status_code == 429
    for other in ("192.0.2.1", "192.0.2.2", "2001:db8:1::1"):
        assert (await ask(gateway, "x", other)).status_code == 401


async def test_a_client_cannot_choose_its_address(open_gateway: OpenGateway) -> None:
    async with open_gateway(auth={"failures_per_minute": LIMIT}) as gateway:
        codes = [(await ask(gateway, "x", f"192.0.2.{i}")).status_code for i in range(LIMIT + 1)]
    assert codes == [401] * LIMIT + [429]


async def test_gateways_count_together(open_gateway: OpenGateway, redis_server: RedisServer) -> None:
    shared = {"redis": {"url": redis_server.url}, "auth": {"failures_per_minute": LIMIT}}
    async with open_gateway(**shared) as one, open_gateway(**shared) as other:
        codes = [(await ask(each, "x")).status_code for each in (one, other, one, other, one)]
    assert codes == [401] * LIMIT + [429] * 2


async def test_the_administrators_port_counts_too(gateway: Gateway) -> None:
    codes = [(await gateway.admin.get("/keys", headers=bearer("x"))).status_code for _ in range(LIMIT + 1)]
    assert codes == [401] * LIMIT + [429]
    root = bearer(token(scope="admin"))
    assert (await gateway.admin.get("/keys", headers=root)).status_code == 200
    assert SECRET not in str((await gateway.admin.get("/audit", headers=root)).json())
