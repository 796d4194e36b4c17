"""The effect of each key of `auth`, and of the administrators' port."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from adaptive_lora.errors import SettingsError
from adaptive_lora.serving.api import create_app
from adaptive_lora.serving.binding import check_bind
from tests.serving.auth.signing import ED_KEYS, SECRET, bearer, jwk, token, write_jwks
from tests.settings.effects import key, serving, settings_of


async def status(auth: dict[str, Any], credential: str) -> int:
    async with serving(auth={"enabled": True} | auth) as client:
        return (await client.get("/v1/models", headers=bearer(credential))).status_code


@key("auth.enabled", "auth.jwt_secret")
async def test_only_who_is_known_is_answered() -> None:
    async with serving() as client:
        assert (await client.get("/v1/models")).status_code == 200
    async with serving(auth={"enabled": True, "jwt_secret": SECRET}) as client:
        assert (await client.get("/v1/models")).status_code == 401
        assert (await client.get("/v1/models", headers=bearer(token()))).status_code == 200
    with pytest.raises(SettingsError, match="placeholder"):
        create_app(settings_of(auth={"enabled": True, "jwt_secret": "change-me-" * 4}))


@key("auth.allow_insecure")
def test_an_exposed_address_without_authentication_must_be_asked_for() -> None:
    exposed = {"api": {"host": "0.0.0.0"}}
    with pytest.raises(SettingsError):
        check_bind(settings_of(**exposed, auth={"enabled": False}))
    check_bind(settings_of(**exposed, auth={"enabled": False, "allow_insecure": True}))


@key("auth.jwt_secret_file")
async def test_the_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    assert await status({"jwt_secret_file": path}, token()) == 200
    for wrong in ({"jwt_secret_file": path, "jwt_secret": SECRET}, {"jwt_secret_file": tmp_path / "absent"}):
        with pytest.raises(SettingsError, match="jwt_secret_file"):
            create_app(settings_of(auth={"enabled": True} | wrong))


@key("auth.algorithm", "auth.jwks_file")
async def test_public_keys_replace_the_secret(tmp_path: Path) -> None:
    path = write_jwks(tmp_path / "jwks.json", jwk(ED_KEYS[0], "a"))
    auth = {"algorithm": "EdDSA", "jwks_file": path}
    assert await status(auth, token(ED_KEYS[0], "EdDSA", headers={"kid": "a"})) == 200
    assert await status(auth, token()) == 401
    for wrong in ({"algorithm": "EdDSA"}, {"jwks_file": path}, auth | {"jwt_secret": SECRET}):
        with pytest.raises(SettingsError, match="jwks_file"):
            create_app(settings_of(auth={"enabled": True} | wrong))


@key("auth.issuer", "auth.audience")
async def test_a_token_is_of_the_issuer_and_for_the_audience() -> None:
    auth = {"jwt_secret": SECRET, "issuer": "https://issuer.example", "audience": "fleet"}
    assert await status(auth, token(iss="https://issuer.example", aud="fleet")) == 200
    assert await status(auth, token(iss="https://issuer.example")) == 401
    assert await status(auth, token(aud="fleet")) == 401


@key("auth.leeway")
async def test_clocks_may_differ_by_the_leeway() -> None:
    expired = token(exp=int(time.time()) - 60)
    assert await status({"jwt_secret": SECRET, "leeway": 300}, expired) == 200
    assert await status({"jwt_secret": SECRET, "leeway": 0}, expired) == 401


@key("auth.require_agents")
async def test_a_token_must_say_for_which_agents() -> None:
    for require, expected in ((True, 401), (False, 200)):
        auth = {"jwt_secret": SECRET, "require_agents": require}
        assert await status(auth, token()) == expected
        assert await status(auth, token(agents=[])) == 200


@key("auth.failures_per_minute")
async def test_an_address_may_fail_so_often() -> None:
    for limit, last in ((2, 429), (3, 401), (None, 401)):
        auth = {"enabled": True, "jwt_secret": SECRET, "failures_per_minute": limit}
        async with serving(auth=auth) as client:
            codes = [(await client.get("/v1/models", headers=bearer("x"))).status_code for _ in range(3)]
        assert codes == [401, 401, last]


@key("api.docs")
async def test_the_document_can_be_switched_off() -> None:
    for docs, expected in ((True, 200), (False, 404)):
        async with serving(api={"docs": docs}) as client:
            assert (await client.get("/openapi.json")).status_code == expected


@key("api.admin_host", "api.admin_port")
def test_administrators_have_a_port_of_their_own(tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text(
        "api: {port: 0, admin_host: 127.0.0.2, admin_port: 0}\nmodel: {engine: fake}\n"
        f"auth: {{enabled: true, jwt_secret: {SECRET}}}\nstorage: {{path: {tmp_path}}}\n"
    )
    command = [sys.executable, "-m", "adaptive_lora", "serve", "--config", str(config)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        urls: dict[str, str] = {}
        while len(urls) < 2:
            line = server.stderr.readline()
            assert line, "the server has ended"
            if found := re.search(r'"message": ?"listening( for administrators)? on (http://[^"]+)"', line):
                urls["admin" if found[1] else "public"] = found[2]
        assert urls["admin"].startswith("http://127.0.0.2:")
        headers = bearer(token(scope="admin"))
        with httpx.Client(headers=headers, trust_env=False) as client:
            while (answer := client.get(f"{urls['admin']}/keys")).status_code == 503:
                time.sleep(0.1)  # until the store is open
            assert (answer.status_code, answer.json()) == (200, {"keys": []})
            assert client.get(f"{urls['public']}/keys").status_code == 404
            assert client.get(f"{urls['public']}/live").status_code == 200
    finally:
        server.terminate()
        _, logs = server.communicate(timeout=60)
    assert server.returncode == 0, logs
