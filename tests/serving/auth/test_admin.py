"""The administrators' port: keys, revocation, audit; and what a key minted there is good for."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from adaptive_lora.access.records import NewKey
from adaptive_lora.errors import AdaptiveLoraError, Forbidden
from adaptive_lora.serving.admin import create_admin_app
from adaptive_lora.serving.auth.credentials import MAX_AGE_S
from adaptive_lora.serving.auth.minting import check_mintable, check_revocable
from adaptive_lora.serving.principal import SCOPES, Principal
from tests.serving.auth.conftest import Gateway, OpenGateway
from tests.serving.auth.signing import bearer, token
from tests.serving.conftest import until

ROOT = bearer(token(sub="root", scope="admin", exp=int(time.time()) + 86_400 * 400))


async def mint(gateway: Gateway, headers: dict[str, str] = ROOT, **body: Any) -> dict[str, Any]:
    response = await gateway.admin.post(
        "/keys", json={"name": "ci", "scopes": ["generate"]} | body, headers=headers
    )
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def generates(client: httpx.AsyncClient, key: str) -> int:
    response = await client.post("/generate", json={"prompt": "x", "max_tokens": 1}, headers=bearer(key))
    return response.status_code


async def test_a_minted_key_works_at_once_and_is_shown_once(gateway: Gateway) -> None:
    minted = await mint(gateway, agents=["code"], expires_in_days=30)
    assert await generates(gateway.client, minted["key"]) == 200
    (listed,) = (await gateway.admin.get("/keys", headers=ROOT)).json()["keys"]
    assert minted == listed | {"key": minted["key"]}
    assert minted["key"].startswith(f"alk_{listed['id']}_")
    assert (listed["name"], listed["tenant"], listed["agents"]) == ("ci", "default", ["code"])
    days = datetime.fromisoformat(listed["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < days <= timedelta(days=30)


async def test_a_revoked_key_is_refused_at_once_and_stays_listed(gateway: Gateway) -> None:
    minted = await mint(gateway)
    revoked = await gateway.admin.delete(f"/keys/{minted['id']}", headers=ROOT)
    assert (revoked.status_code, revoked.json()["revoked_at"] is None) == (200, False)
    assert await generates(gateway.client, minted["key"]) == 401
    (listed,) = (await gateway.admin.get("/keys", headers=ROOT)).json()["keys"]
    assert listed == revoked.json()
    assert (await gateway.admin.delete("/keys/000000000000", headers=ROOT)).status_code == 404


async def test_a_revoked_token_is_refused_at_once(gateway: Gateway) -> None:
    one, other = token(jti="t1"), token(jti="t2")
    assert [await generates(gateway.client, each) for each in (one, other)] == [200, 200]
    body = {"jti": "t1", "expires_in_days": 1}
    assert (await gateway.admin.post("/tokens:revoke", json=body, headers=ROOT)).status_code == 204
    assert [await generates(gateway.client, each) for each in (one, other)] == [401, 200]


async def test_the_audit_log_names_who_did_what(gateway: Gateway) -> None:
    minted = await mint(gateway)
    await gateway.admin.post("/tokens:revoke", json={"jti": "t1"}, headers=ROOT)
    other = bearer(token(sub="second", scope="admin"))
    await gateway.admin.delete(f"/keys/{minted['id']}", headers=other)
    answer = (await gateway.admin.get("/audit", params={"limit": 2}, headers=ROOT)).json()
    assert [(e["who"], e["action"], e["subject"]) for e in answer["entries"]] == [
        ("second", "key.revoke", minted["id"]),
        ("root", "token.revoke", "t1"),
    ]
    params = {"before": answer["next_before"]}
    rest = (await gateway.admin.get("/audit", params=params, headers=ROOT)).json()
    assert [(e["who"], e["action"]) for e in rest["entries"]] == [("root", "key.mint")]
    assert minted["key"].rpartition("_")[2] not in str((answer, rest))
    assert rest["next_before"] is None


async def test_tenants_do_not_see_each_other(gateway: Gateway) -> None:
    acme, beta = (bearer(token(sub=t, tenant=t, scope="admin")) for t in ("acme", "beta"))
    minted = await mint(gateway, acme)
    assert (await gateway.admin.get("/keys", headers=beta)).json() == {"keys": []}
    assert (await gateway.admin.get("/audit", headers=beta)).json()["entries"] == []
    assert (await gateway.admin.delete(f"/keys/{minted['id']}", headers=beta)).status_code == 404
    await gateway.admin.post("/tokens:revoke", json={"jti": "t1"}, headers=beta)
    assert await generates(gateway.client, token(tenant="acme", jti="t1")) == 200
    assert await generates(gateway.client, minted["key"]) == 200


@pytest.mark.parametrize(
    "body",
    [
        {"tenant": "beta"},
        {"agents": ["creative"]},
        {"agents": ["code", "creative"]},
        {"tier": "gold"},
        {"expires_in_days": 1},
    ],
)
async def test_a_minted_key_never_exceeds_its_minter(gateway: Gateway, body: dict[str, Any]) -> None:
    limits = {"tenant": "acme", "agents": ["code"], "exp": int(time.time()) + 3600}
    minter = bearer(token(scope="admin", **limits))
    wanted = {"name": "x", "scopes": ["generate"]} | body
    response = await gateway.admin.post("/keys", json=wanted, headers=minter)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")
    assert gateway.store.list_keys() == ()


async def test_without_being_told_a_key_has_its_minters_agents_and_end(gateway: Gateway) -> None:
    exp = int(time.time()) + 3600
    minter = bearer(token(scope="admin", tenant="acme", agents=["code"], exp=exp))
    minted = await mint(gateway, minter)
    assert (minted["tenant"], minted["agents"]) == ("acme", ["code"])
    assert datetime.fromisoformat(minted["expires_at"]).timestamp() == exp
    grandchild = await mint(gateway, bearer((await mint(gateway, minter, scopes=["admin"]))["key"]))
    assert (grandchild["tenant"], grandchild["agents"]) == ("acme", ["code"])
    assert grandchild["expires_at"] == minted["expires_at"]


def test_nothing_beyond_the_minter_is_mintable() -> None:
    """All pairs of minter and key from a few values of each kind."""
    now = datetime.now(UTC)
    ends = (now + timedelta(days=1), now + timedelta(days=2), None)
    scopes = [frozenset(each) for each in (["generate"], ["generate", "metrics"], ["admin"])]
    agents = [frozenset[str](), frozenset({"a"}), frozenset({"a", "b"}), None]
    kinds = list(itertools.product(("acme", "beta"), scopes, agents, ("default", "gold"), ends))
    n_allowed = 0
    for minter_of, key_of in itertools.product(kinds, kinds):
        tenant, has, may, tier, end = minter_of
        minter = Principal("m", tenant, has, may, None, tier, end)
        new = NewKey("k", *key_of)
        within = (
            key_of[0] == tenant
            and ("admin" in has or key_of[1] <= has)
            and (may is None or (key_of[2] is not None and key_of[2] <= may))
            and key_of[3] == tier
            and (end is None or (key_of[4] is not None and key_of[4] <= end))
        )
        assert _is_allowed(lambda m=minter, n=new: check_mintable(m, n)) == within
        n_allowed += within
    assert 0 < n_allowed < len(kinds) ** 2 / 2


def _is_allowed(check: Any) -> bool:
    try:
        check()
    except Forbidden:
        return False
    return True


async def test_a_key_beyond_ones_own_rights_is_not_ones_own_to_revoke(gateway: Gateway) -> None:
    strong = gateway.store.mint(NewKey("strong", "acme", frozenset({"generate"})), who="ann").key
    weak = bearer(token(scope="admin", tenant="acme", agents=["code"]))
    response = await gateway.admin.delete(f"/keys/{strong.id}", headers=weak)
    assert response.status_code == 403
    check_revocable(Principal("x", "acme", frozenset({"admin"})), strong)


@pytest.mark.parametrize(
    "body",
    [
        {"scopes": None}, {"scopes": []}, {"scopes": ["root"]}, {"scopes": "admin"}, {"name": None},
        {"name": " "}, {"name": "x" * 65}, {"name": "a\nb"}, {"agents": ["../x"]}, {"id": "0" * 12},
        {"expires_in_days": 0},
        {"tenant": "A"}, {"tier": "a b"}, {"digest": "0" * 64}, {"expires_in_days": 1e9},
    ],
)  # fmt: skip
async def test_a_body_that_is_not_understood_mints_nothing(gateway: Gateway, body: dict[str, Any]) -> None:
    whole = {"name": "x", "scopes": ["generate"]} | body
    response = await gateway.admin.post("/keys", json=whole, headers=ROOT)
    assert response.status_code in (400, 422), response.text
    assert gateway.store.list_keys() == ()


async def test_administrators_routes_are_not_on_the_public_port(gateway: Gateway) -> None:
    for method, path in (("GET", "/keys"), ("POST", "/keys"), ("GET", "/audit"), ("POST", "/tokens:revoke")):
        response = await gateway.client.request(method, path, headers=ROOT, json={})
        assert response.status_code == 404
    assert not {
        path for path in gateway.app.openapi()["paths"] if path.startswith(("/keys", "/audit", "/tok"))
    }
    for path in ("/generate", "/adapters", "/metrics", "/v1/models"):
        assert (await gateway.admin.get(path, headers=ROOT)).status_code == 404


async def test_without_authentication_there_is_nothing_to_administer(build: Any) -> None:
    """Else whoever reaches it could mint keys for the day on which authentication is switched on."""
    app: FastAPI = build()
    transport = httpx.ASGITransport(create_admin_app(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as admin:
        for method, path in (("GET", "/keys"), ("POST", "/keys"), ("GET", "/audit")):
            response = await admin.request(method, path, json={"name": "x", "scopes": ["admin"]})
            assert (response.status_code, response.json()["error"]["code"]) == (409, "conflict")
        assert "security" not in str(create_admin_app(app).openapi())


async def test_a_change_in_one_process_reaches_the_other(open_gateway: OpenGateway) -> None:
    async with open_gateway() as one, open_gateway() as other:
        minted = await mint(one)
        key = minted["key"]
        looks = other.gate.credentials
        await until(lambda: looks.key(minted["id"]) is not None)
        assert await generates(other.client, key) == 200
        credential = token(jti="t1")
        assert await generates(other.client, credential) == 200
        await one.admin.delete(f"/keys/{minted['id']}", headers=ROOT)
        await one.admin.post("/tokens:revoke", json={"jti": "t1"}, headers=ROOT)
        revision = one.store.revision()
        await until(lambda: looks._listing is not None and looks._listing.revision == revision)
        assert [await generates(other.client, each) for each in (key, credential)] == [401, 401]


async def test_when_it_is_not_known_who_is_revoked_the_answer_is_503(gateway: Gateway) -> None:
    key = (await mint(gateway))["key"]
    credentials = gateway.gate.credentials
    assert credentials._task is not None
    credentials._task.cancel()  # it does not look at the store again
    clock = credentials._clock
    credentials._clock = lambda: clock() + MAX_AGE_S + 60
    for credential in (key, token(), token(jti="t1")):
        response = await gateway.client.post("/generate", json={"prompt": "x"}, headers=bearer(credential))
        assert (response.status_code, response.json()["error"]["code"]) == (503, "registry_unavailable")
        assert response.headers["retry-after"] == "1"
    assert (await gateway.client.get("/live", headers=bearer(key))).status_code == 200
    assert (await gateway.client.post("/generate", json={"prompt": "x"})).status_code == 401


async def test_errors_of_the_store_are_told_without_its_address(gateway: Gateway) -> None:
    def fails(*_: object, **__: object) -> None:
        raise AdaptiveLoraError("x")

    gateway.gate.credentials.store.list_keys = fails  # type: ignore[method-assign, assignment]
    assert (await gateway.admin.get("/keys", headers=ROOT)).status_code == 500


def test_the_scopes_of_the_document_are_all_there_are() -> None:
    from typing import get_args

    from adaptive_lora.serving.schemas.access import Scope

    assert get_args(Scope) == SCOPES
