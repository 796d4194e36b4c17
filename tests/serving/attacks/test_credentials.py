"""Forged credentials, and rights: against the server's own process. Each attack on tokens in detail is in
tests/serving/auth/test_tokens.py, the whole matrix of rights in test_rights.py."""

from __future__ import annotations

import time
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from tests.serving.attacks.target import AGENTS, Target
from tests.serving.auth.signing import ED_KEYS, RSA_KEYS, SECRET, bearer, claims, jwk, segment, signed, token
from tests.serving.auth.test_rights import ROWS, Row

HS256 = {"alg": "HS256", "typ": "JWT"}
PEM = (
    RSA_KEYS[0]
    .public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
)
NOW = int(time.time())

WITH_A_SECRET = {
    "none": f"{segment({'alg': 'none', 'typ': 'JWT'})}.{segment(claims())}.",
    "none with a signature": signed({"alg": "none", "typ": "JWT"}, claims()),
    "another algorithm": jwt.encode(claims(), SECRET * 2, "HS512"),
    "an empty secret": signed(HS256 | {"kid": "/dev/null"}, claims(), b""),
    "a kid that is a path": signed(HS256 | {"kid": "../../../../proc/self/environ"}, claims(), b"\0"),
    "a kid that is a query": signed(HS256 | {"kid": "x' UNION SELECT 'x"}, claims(), b"x"),
    "a key of its own": jwt.encode(claims(), RSA_KEYS[1], "RS256", headers={"jwk": jwk(RSA_KEYS[1], "a")}),
    "a key from elsewhere": signed(HS256 | {"jku": "http://169.254.169.254/jwks"}, claims()),
    "an extension": signed(HS256 | {"crit": ["exp"]}, claims()),
    "another audience": token(aud="other"),
    "no audience": token(aud=None),
    "another issuer": token(iss="other"),
    "no issuer": token(iss=None),
    "no end": token(exp=None),
    "refresh, by its claim": token(token_use="refresh"),
    "refresh, by another claim": token(typ="Refresh"),
    "refresh, by its header": token(headers={"typ": "refresh+jwt"}),
    "an ID token": token(token_use="id"),
    "expired": token(exp=NOW - 3_600),
    "not yet": token(nbf=NOW + 3_600_000),
    "from the future": token(iat=NOW + 3_600_000),
    "an end that is no number": signed(HS256, claims(exp="never")),
    "scopes as a list": signed(HS256, claims(scope=["admin"])),
    "agents as a word": signed(HS256, claims(agents="walnut")),
    "a tenant that is a path": signed(HS256, claims(tenant="../acme")),
    "an unknown key": "alk_000000000000_" + "x" * 43,
    "a key with a pattern": "alk_%" + "x" * 43,
    "the secret itself": SECRET,
}
WITH_PUBLIC_KEYS = {
    "none": f"{segment({'alg': 'none', 'kid': 'a'})}.{segment(claims())}.",
    "the public key as a secret": signed(HS256 | {"kid": "a"}, claims(), PEM),
    "the public key as a secret, stripped": signed(HS256 | {"kid": "a"}, claims(), PEM.strip()),
    "another RSA algorithm": jwt.encode(claims(), RSA_KEYS[0], "PS256", headers={"kid": "a"}),
    "another kind of key": jwt.encode(claims(), ED_KEYS[0], "EdDSA", headers={"kid": "ed"}),
    "another key": jwt.encode(claims(), RSA_KEYS[1], "RS256", headers={"kid": "a"}),
    "an unknown kid": jwt.encode(claims(), RSA_KEYS[0], "RS256", headers={"kid": "b"}),
    "a kid that is a path": jwt.encode(claims(), RSA_KEYS[0], "RS256", headers={"kid": "./a"}),
    "no kid": jwt.encode(claims(), RSA_KEYS[0], "RS256"),
}


def models(target: Target, credential: str) -> httpx.Response:
    return httpx.get(f"{target.url}/v1/models", headers=bearer(credential), trust_env=False)


def test_a_good_token_is_believed(target: Target, public_key_target: Target) -> None:
    assert models(target, token(exp=NOW + 86_400)).status_code == 200
    good = jwt.encode(claims(exp=NOW + 86_400), RSA_KEYS[0], "RS256", headers={"kid": "a"})
    assert models(public_key_target, good).status_code == 200


@pytest.mark.parametrize("name", WITH_A_SECRET)
def test_a_forged_credential_is_refused(target: Target, name: str) -> None:
    response = models(target, WITH_A_SECRET[name])
    assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthenticated")
    target.check_is_well()


@pytest.mark.parametrize("name", WITH_PUBLIC_KEYS)
def test_a_forged_token_is_refused_where_keys_are_public(public_key_target: Target, name: str) -> None:
    response = models(public_key_target, WITH_PUBLIC_KEYS[name])
    assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthenticated")
    public_key_target.check_is_well()


def test_clocks_may_differ_by_the_leeway_and_no_more(target: Target) -> None:
    now = int(time.time())
    assert models(target, token(exp=now - 1)).status_code == 200
    assert models(target, token(exp=now - 60)).status_code == 401


def ask(target: Target, row: Row, agent: str, headers: dict[str, str]) -> tuple[int, Any]:
    request = row.request(agent)
    request["url"] = (target.admin_url if row.admin else target.url) + request["url"]
    response = httpx.request(**request, headers=headers, trust_env=False)
    is_json = response.headers.get("content-type", "").startswith("application/json")
    return response.status_code, response.json() if is_json else response.text


@pytest.mark.parametrize("name", ROWS)
def test_rights(platform_target: Target, name: str) -> None:
    """Of every operation: without credentials, without its scope, about an agent of somebody else's."""
    on, row = platform_target, ROWS[name]
    mine, others = AGENTS
    if row.scope is None:
        assert ask(on, row, mine, {})[0] == 200
        return
    assert ask(on, row, mine, {})[0] == 401
    assert ask(on, row, mine, bearer(token(scope="")))[0] == 403
    assert ask(on, row, mine, bearer(token(scope="adapters:write generate admin", aud="x")))[0] == 401
    limited = bearer(token(scope=row.scope, agents=[mine]))
    status, body = ask(on, row, others, limited)
    assert status < 500
    if row.names_agent:
        absent = ask(on, row, "absent", limited)
        assert (status, absent[0]) == (404, 404)
        assert body["error"]["code"] == absent[1]["error"]["code"]
        assert body["error"]["message"].replace(others, "absent") == absent[1]["error"]["message"]
    if name == "GET /metrics":
        assert status == 403


def test_administrators_routes_are_on_their_own_port_alone(target: Target) -> None:
    everything = bearer(token(scope="admin", exp=NOW + 86_400))
    for row in ROWS.values():
        request = row.request(AGENTS[0])
        request["url"] = (target.url if row.admin else target.admin_url) + request["url"]
        assert httpx.request(**request, headers=everything, trust_env=False).status_code in (404, 405)
