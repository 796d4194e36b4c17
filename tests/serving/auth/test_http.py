"""Authentication as requests meet it: on a raw socket, before a body is read, in the history."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI

from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.types import AdapterVersion
from tests.serving.auth.conftest import Gateway
from tests.serving.auth.signing import SECRET, bearer, token
from tests.serving.conftest import Listen, agent

AUTH = {"enabled": True, "jwt_secret": SECRET}


async def raw(port: int, request: bytes) -> bytes:
    """All that is answered to these very bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(30):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                ),
                0,
            )
            return head + await reader.readexactly(length)
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def port(listen: Listen) -> AsyncIterator[int]:
    """Any host name is answered, as on an address that others can reach."""
    async with listen(auth=AUTH, api={"host": "0.0.0.0"}) as port:
        yield port


PROTECTED = [b"/metrics", b"/v1/models", b"/adapters", b"/adapters/code"]
SPELLINGS = [
    b"%s", b"//127.0.0.1%s", b"/%s", b"%s/", b"%s?", b"%s?x=/live", b"%s#/live", b"/live/..%s",
    b"/live%%2f..%s", b"/live;%s", b"/live?%s", b"/docs/..%s", b"http://127.0.0.1%s", b"http://a/?%s",
    b"/.%s", b"%s/.", b"%s%%00", b"%s;/live", b"/LIVE/..%s", b"\\live%s",
]  # fmt: skip
HOSTS = [b"a/?", b"a/live?", b"a#", b"127.0.0.1/live", b"127.0.0.1?/live", b"a@b", b"a b", b"a\\b", b"", b"a"]


def shows_anything(answer: bytes) -> bool:
    return any(word in answer for word in (b"api_request", b"lora_", b"fake-base", b"creative", b"owned_by"))


@pytest.mark.parametrize("path", PROTECTED)
async def test_no_spelling_of_host_or_path_opens_a_route(port: int, path: bytes) -> None:
    """CVE-2026-48710 and its kin: whatever host and target say, the route that matches asks who calls."""
    for host in HOSTS:
        for spelling in SPELLINGS:
            target = spelling % path
            answer = await raw(port, b"GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (target, host))
            status = int(answer.split(b" ", 2)[1])
            case = (target, host, answer)
            assert not shows_anything(answer), case
            assert status in (200, 400, 401, 404), case
            if status == 200:  # /live or / itself, with the rest as its query
                assert answer.endswith((b'{"status":"alive"}', b'"health":"/health"}')), case


@pytest.mark.parametrize("host", [b"a/?", b"a/live?", b"a/../live?", b"a#b"])
async def test_a_host_that_looks_like_a_path_is_refused(port: int, host: bytes) -> None:
    headers = b"Authorization: Bearer %s\r\n" % token(scope="metrics").encode()
    answer = await raw(port, b"GET /metrics HTTP/1.1\r\nHost: %s\r\n%s\r\n" % (host, headers))
    assert answer.startswith(b"HTTP/1.1 400 ")
    good = await raw(port, b"GET /metrics HTTP/1.1\r\nHost: a\r\n%s\r\n" % headers)
    assert good.startswith(b"HTTP/1.1 200 ")
    assert shows_anything(good)


@pytest.mark.parametrize(
    "header",
    [
        b"X-Forwarded-User: admin", b"X-Original-URL: /live", b"X-Rewrite-URL: /live",
        b"X-HTTP-Method-Override: GET", b"X-Forwarded-For: 127.0.0.1", b"X-Forwarded-Host: 127.0.0.1",
        b"Forwarded: for=127.0.0.1", b"Cookie: token=x", b"X-Api-Key: x",
        b"Proxy-Authorization: Bearer x", b"X-Forwarded-Prefix: /live",
    ],
)  # fmt: skip
async def test_no_other_header_opens_anything(port: int, header: bytes) -> None:
    answer = await raw(port, b"GET /v1/models HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n" % header)
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_a_credential_in_the_query_is_none(port: int) -> None:
    query = f"access_token={token()}&api_key={token()}&token={token()}".encode()
    answer = await raw(port, b"GET /v1/models?%s HTTP/1.1\r\nHost: a\r\n\r\n" % query)
    assert answer.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("path", [b"/generate", b"/adapters:upload", b"/nowhere", b"/live"])
async def test_who_is_not_known_is_refused_before_the_body_is_read(port: int, path: bytes) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n" % path
    answer = await raw(port, head)  # and not a byte of the body
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_two_credentials_are_none(port: int) -> None:
    good = b"Authorization: Bearer %s\r\n" % token().encode()
    for headers in (good + good, good + b"Authorization: Bearer x\r\n", b"Authorization: x\r\n" + good):
        answer = await raw(port, b"GET /v1/models HTTP/1.1\r\nHost: a\r\n%s\r\n" % headers)
        assert answer.startswith(b"HTTP/1.1 401 ")


async def test_a_requests_line_says_whose_it_is(port: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "adaptive_lora.access")
    for header in (b"Authorization: Bearer %s\r\n" % token(tenant="acme").encode(), b""):
        await raw(port, b"GET /v1/models HTTP/1.1\r\nHost: a\r\n%s\r\n" % header)
    lines = [vars(record) for record in caplog.records if record.name == "adaptive_lora.access"]
    assert [(line["status"], line.get("tenant"), line.get("code")) for line in lines] == [
        (200, "acme", None),
        (401, None, "unauthenticated"),
    ]


async def test_a_credential_is_not_logged(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    for credential in (token(), token(aud="other"), "alk_000000000000_" + "s3cret" * 7 + "x"):
        await gateway.client.get("/v1/models", headers=bearer(credential))
        assert credential not in "".join(str(vars(record)) for record in caplog.records)


async def test_openais_client_sends_its_api_key(port: int) -> None:
    good, bad = (
        openai.AsyncOpenAI(api_key=key, base_url=f"http://127.0.0.1:{port}/v1", max_retries=0)
        for key in (token(agents=["code"]), token(aud="other"))
    )
    async with good, bad:
        models = [model.id async for model in good.models.list()]
        assert {name.partition("@")[0] for name in models} == {"auto", "base", "code"}
        messages: Any = [{"role": "user", "content": "x"}]
        answer = await good.chat.completions.create(model="code", messages=messages, max_tokens=1)
        assert answer.model.startswith("code")
        with pytest.raises(openai.NotFoundError):
            await good.chat.completions.create(model="creative", messages=messages)
        with pytest.raises(openai.AuthenticationError):
            await bad.chat.completions.create(model="code", messages=messages)


# Who made a change


def packed(version: AdapterVersion) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(version.path.iterdir()):
            tar.add(path, arcname=path.name)
    return buffer.getvalue()


async def test_the_history_names_who_is_authenticated(gateway: Gateway, tmp_path: Path) -> None:
    headers = bearer(token(sub="ann@example.org", scope="adapters:write adapters:read"))
    law = packed(agent("law", seed=11, folder=tmp_path))
    say = {"who": "somebody else", "why": "because"}
    added = await gateway.client.post(
        "/adapters:upload", content=law, params=say, headers=headers | {"content-type": "application/x-tar"}
    )
    assert (added.status_code, added.json()["added_by"]) == (201, "ann@example.org")
    at = "/adapters/law"
    version = added.json()["version"]
    changes = [
        ("POST", f"{at}/versions/{version}/pin", {"json": say}),
        ("POST", f"{at}/versions/{version}/unpin", {}),
        ("PUT", f"{at}/aliases/blue", {"json": say | {"version": version}}),
        ("POST", f"{at}/promote", {"json": say | {"alias": "blue"}}),
        ("PUT", f"{at}/aliases/green", {"json": say | {"version": version}}),
        ("DELETE", f"{at}/aliases/green", {"params": say}),
    ]
    for method, path, arguments in changes:
        response = await gateway.client.request(method, path, headers=headers, **arguments)  # type: ignore[arg-type]
        assert response.status_code in (200, 204), response.text
    entries = (await gateway.client.get(f"{at}/history", headers=headers)).json()["entries"]
    assert len(entries) >= len(changes)
    assert {entry["who"] for entry in entries} == {"ann@example.org"}
    assert "because" in {entry["why"] for entry in entries}


async def test_a_long_subject_stands_shortened_in_the_history(gateway: Gateway) -> None:
    headers = bearer(token(sub="x" * 255, scope="adapters:write"))
    response = await gateway.client.put(
        "/adapters/code/aliases/blue", json={"version": "prod"}, headers=headers
    )
    assert response.status_code == 200


async def test_an_adapter_of_another_name_is_not_added(gateway: Gateway, tmp_path: Path) -> None:
    """Its name stands in its manifest, which is read when it has arrived."""
    content = packed(agent("law", seed=11, folder=tmp_path))
    at = {"url": "/adapters:upload", "content": content}
    limited = bearer(token(scope="adapters:write", agents=["code"])) | {"content-type": "application/x-tar"}
    response = await gateway.client.post(**at, headers=limited)  # type: ignore[arg-type]
    assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")
    everybody = bearer(token(scope="adapters:read"))
    assert (await gateway.client.get("/adapters/law", headers=everybody)).status_code == 404
    own = bearer(token(scope="adapters:write", agents=["law"])) | {"content-type": "application/x-tar"}
    assert (await gateway.client.post(**at, headers=own)).status_code == 201  # type: ignore[arg-type]


async def test_probes_need_nothing_and_say_nothing(build: Callable[..., FastAPI], tmp_path: Path) -> None:
    """Also before the store of keys has been opened."""
    app = build(engine=FakeEngine(), auth=AUTH, storage={"path": tmp_path})
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert (await client.get("/live")).json() == {"status": "alive"}
        assert (await client.get("/live", headers=bearer("nonsense"))).status_code == 200
        ready = await client.get("/ready")
        assert (ready.status_code, ready.json()["error"]["message"]) == (503, "not ready: starting")
        assert (await client.get("/health")).json() == {"status": "starting"}
        assert (await client.get("/v1/models", headers=bearer(token()))).status_code == 503


async def test_the_document_needs_no_credentials_and_can_be_switched_off(
    build: Callable[..., FastAPI],
) -> None:
    for docs, status in ((True, 200), (False, 404)):
        app = build(auth=AUTH, api={"docs": docs})
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            for path in ("/docs", "/openapi.json"):
                assert (await client.get(path)).status_code == status


def test_where_nobody_is_asked_the_document_does_not_say_so(build: Callable[..., FastAPI]) -> None:
    assert "bearer" not in json.dumps(build().openapi())
