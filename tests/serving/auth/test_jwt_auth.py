"""`JWTAuth` as the deployment guide uses it: in an application of one's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI

from adaptive_lora.errors import SettingsError
from adaptive_lora.serving.auth import JWTAuth, User

from .signing import ED_KEYS, RSA_KEYS, SECRET, bearer, jwk, token, write_jwks

auth = JWTAuth(secret_key=SECRET, algorithm="HS256")
app = FastAPI()


@app.post("/generate")
async def generate(user: User = Depends(auth.get_current_user)) -> dict[str, Any]:  # noqa: B008 - the guide's
    return {"user": user.subject, "tenant": user.tenant}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


async def test_the_user_is_the_tokens(client: httpx.AsyncClient) -> None:
    response = await client.post("/generate", headers=bearer(token(sub="ann", tenant="acme")))
    assert (response.status_code, response.json()) == (200, {"user": "ann", "tenant": "acme"})


@pytest.mark.parametrize(
    "headers", [{}, bearer("x"), bearer(token(aud="other")), {"authorization": "Basic YTpi"}]
)
async def test_anybody_else_is_401_with_a_challenge(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    response = await client.post("/generate", headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="adaptive-lora"'


def test_the_document_says_that_a_token_is_needed() -> None:
    document = app.openapi()
    (scheme,) = document["paths"]["/generate"]["post"]["security"][0]
    assert document["components"]["securitySchemes"][scheme]["scheme"] == "bearer"


def test_public_keys_from_a_file(tmp_path: Path) -> None:
    for algorithm, key in (("RS256", RSA_KEYS[0]), ("EdDSA", ED_KEYS[0])):
        path = write_jwks(tmp_path / f"{algorithm}.json", jwk(key, "a"))
        verifier = JWTAuth(algorithm=algorithm, jwks_file=path).verifier
        assert verifier.verify(token(key, algorithm, headers={"kid": "a"}))[0].subject == "ann"


@pytest.mark.parametrize(
    "arguments",
    [
        {}, {"secret_key": "short"}, {"secret_key": "change-me-change-me-change-me-change-me"},
        {"secret_key": SECRET, "algorithm": "none"}, {"secret_key": SECRET, "algorithm": "HS512"},
        {"secret_key": SECRET, "algorithm": "RS256"}, {"algorithm": "RS256"},
        {"algorithm": "ES256", "jwks_file": Path("x")}, {"jwks_file": Path("x")},
        {"secret_key": SECRET, "jwks_file": Path("x")},
    ],
)  # fmt: skip
def test_what_is_not_safe_is_refused_at_start(arguments: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        JWTAuth(**arguments)
