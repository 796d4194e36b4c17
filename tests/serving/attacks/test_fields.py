"""What a request may not say: fields that engines and proxies have been attacked through, costs without a
bound, addresses to call, and text that some query or template might run."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.serving.attacks.target import Target
from tests.serving.auth.signing import bearer, token

TURN = {"role": "user", "content": "x"}
CHAT = {"model": "base", "messages": [TURN], "max_tokens": 1}
BODIES: dict[str, dict[str, Any]] = {
    "/generate": {"prompt": "x", "max_tokens": 1},
    "/generate/batch": {"prompts": ["x"], "max_tokens": 1},
    "/v1/completions": {"model": "base", "prompt": "x", "max_tokens": 1},
    "/v1/chat/completions": CHAT,
}
DEEP: dict[str, Any] = {"type": "object"}
for _ in range(40):
    DEEP = {"type": "object", "properties": {"x": DEEP}}

UNKNOWN: dict[str, Any] = {
    # GHSA-69j4-grxj-j64p and its kin: a template of the caller's, and what it is rendered with
    "chat_template": "{% for i in range(10**9) %}x{% endfor %}",
    "chat_template_kwargs": {"chat_template": "x"},
    "documents": [],
    # CVE-2026-105756: the salt of the prefix cache is the server's to give
    "cache_salt": "x",
    # CVE-2024-6587, CVE-2026-35029: where to call, and with what
    "api_base": "http://127.0.0.1:9/v1",
    "api_key": "sk-x",
    "user_config": {},
    # vLLM's own: structured output by other ways, embeddings as tensors, plugins, other workers
    "guided_json": {},
    "guided_regex": "(a+)+$",
    "structured_outputs": {"regex": "(a+)+$"},
    "prompt_embeds": "gASVAAAA",
    "kv_transfer_params": {"remote_host": "127.0.0.1"},
    "vllm_xargs": {"x": 1},
    "logits_processors": ["os.system"],
    "mm_processor_kwargs": {"size": {"longest_edge": 10**9}},
    "lora_request": {"lora_path": "/etc"},
    "allowed_token_ids": [1],
    "bad_words": ["x"],
    "prompt_logprobs": 1_000_000,
    "priority": -1,
    "request_id": "req-of-another",
    "tenant": "acme",
    "__proto__": {"admin": True},
}
TOO_MUCH: dict[str, dict[str, Any]] = {
    "/generate": {
        "max_tokens": 10**9, "top_k": 10**9, "min_tokens": 10**9, "seed": 2**64, "temperature": 1e308,
        "repetition_penalty": 1e9, "stop": ["x"] * 17, "json_schema": DEEP, "prompt": "x" * 32_001,
        "adapter": "a" * 513, "top_p": float(2),
    },
    "/v1/completions": {
        "n": 17, "best_of": 2, "logprobs": 6, "max_tokens": 10**9, "prompt": ["x"] * 129, "stop": "x" * 257,
        "logit_bias": {"1": 100}, "suffix": "x", "echo": True,
    },
    "/v1/chat/completions": {
        "n": 10**6, "top_logprobs": 21, "max_completion_tokens": 10**9, "messages": [TURN] * 257,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": DEEP}},
        "stop": ["x" * 257],
    },
}  # fmt: skip
RUNNABLE = [
    "'; DROP TABLE api_keys; --", "' OR '1'='1", "{{7*7}}", "${jndi:ldap://127.0.0.1/x}", "../../etc/passwd",
    "%s%s%n", "$(touch /tmp/x)", "a\r\nX-Evil: 1", "a\nb",
    "<img src=x onerror=alert(1)>", "\\..\\x", "a" * 600,
]  # fmt: skip


def post(target: Target, path: str, body: object) -> httpx.Response:
    headers = bearer(token(scope="generate adapters:read adapters:write")) | {
        "content-type": "application/json"
    }
    return httpx.post(
        target.url + path, content=json.dumps(body), headers=headers, trust_env=False, timeout=60
    )


@pytest.mark.parametrize("path", BODIES)
def test_without_any_of_it_they_are_answered(target: Target, path: str) -> None:
    assert post(target, path, BODIES[path]).status_code == 200


@pytest.mark.parametrize("field", UNKNOWN)
def test_a_field_that_is_not_known_is_refused_by_name(target: Target, field: str) -> None:
    for path, body in BODIES.items():
        response = post(target, path, body | {field: UNKNOWN[field]})
        assert response.status_code in (400, 422), (path, response.text)
        assert field in response.json()["error"]["message"]


@pytest.mark.parametrize(("path", "field"), [(path, field) for path in TOO_MUCH for field in TOO_MUCH[path]])
def test_what_costs_has_a_bound(target: Target, path: str, field: str) -> None:
    response = post(target, path, BODIES[path] | {field: TOO_MUCH[path][field]})
    assert response.status_code in (400, 422), response.text
    assert response.json()["error"]["code"] in ("invalid_request", "invalid_name")
    target.check_is_well()


def test_bodies_are_bounded_in_size_and_depth(target: Target) -> None:
    headers = bearer(token()) | {"content-type": "application/json"}
    for content, code in (
        (b'{"prompt": "' + b"x" * 1_000_001 + b'"}', "body_too_large"),
        (b"[" * 100_000 + b"]" * 100_000, "invalid_request"),
        (b'{"prompt":' * 20_000 + b"1" + b"}" * 20_000, "invalid_request"),
        (b'{"prompt": "x", "max_tokens": ' + b"9" * 100_000 + b"}", "invalid_request"),
        (b'{"prompt": "x", "seed": 1e999}', "invalid_request"),
        (b'{"prompt": "x", "temperature": NaN}', "invalid_request"),
    ):
        response = httpx.post(f"{target.url}/generate", content=content, headers=headers, trust_env=False)
        assert response.status_code in (400, 413, 422), response.text
        assert response.json()["error"]["code"] == code
    target.check_is_well()


@pytest.fixture
def canary() -> Iterator[socket.socket]:
    """A server that nobody has a reason to call."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def test_no_address_in_a_request_is_called(target: Target, canary: socket.socket) -> None:
    """CVE-2026-116176 and every other SSRF: in headers, fields, content, schemas, sources."""
    url = f"http://127.0.0.1:{canary.getsockname()[1]}/x"
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    schema = {"$ref": url, "$schema": url, "$id": url}
    for path, body in BODIES.items():
        for field in ("api_base", "base_url", "webhook", "callback_url", "user"):
            post(target, path, body | {field: url})
    post(target, "/generate", BODIES["/generate"] | {"json_schema": schema})
    post(target, "/v1/chat/completions", CHAT | {"messages": [image]})
    for source in (url, url.replace("http", "hf"), f"s3://{url[7:]}", f"file://{url[7:]}"):
        post(target, "/adapters", {"source": source})
    names = (
        "x-request-id",
        "traceparent",
        "x-forwarded-for",
        "x-forwarded-host",
        "referer",
        "origin",
        "forwarded",
    )
    for name in (*names, "x-callback-url", "x-original-url", "via", "true-client-ip"):
        headers = bearer(token()) | {name: url}
        assert httpx.get(f"{target.url}/v1/models", headers=headers, trust_env=False).status_code == 200
    with pytest.raises(BlockingIOError):
        canary.accept()


@pytest.mark.parametrize("text", RUNNABLE, ids=lambda text: text[:20])
def test_text_is_never_more_than_text(target: Target, text: str) -> None:
    """In every place that a query, a path, a template, a log or a header is made from."""
    root = bearer(token(scope="admin"))
    with httpx.Client(headers=root, trust_env=False, timeout=60) as client:
        answers = [
            client.post(
                f"{target.admin_url}/keys", json={"name": text, "scopes": ["generate"], "tenant": text}
            ),
            client.post(f"{target.admin_url}/tokens:revoke", json={"jti": text}),
            client.request("DELETE", f"{target.admin_url}/keys/{text.encode().hex()}"),
            client.get(f"{target.admin_url}/audit", params={"before": text, "limit": text}),
            client.get(f"{target.url}/adapters/walnut/history", params={"before": text}),
            client.get(f"{target.url}/v1/models/" + httpx.URL("http://x", params={"x": text}).query.decode()),
            client.put(f"{target.url}/adapters/walnut/aliases/blue", json={"version": text, "why": text}),
            client.post(f"{target.url}/generate", json={"prompt": "x", "adapter": text, "max_tokens": 1}),
        ]
    for answer in answers:
        assert answer.status_code < 500, (answer.request.url, answer.text)
        assert "x-evil" not in answer.headers
    assert "X-Evil" not in {line.partition(":")[0] for line in target.logs.read_text().splitlines()}
    with httpx.Client(headers=root, trust_env=False) as client:
        assert client.get(f"{target.admin_url}/keys").status_code == 200, "the table is still there"
    target.check_is_well()
