"""Requests of every kind that a dashboard shows."""

from __future__ import annotations

import json
import ssl

import httpx

from tests.deploy.monitoring_stack import until
from tests.serving.auth.signing import bearer, token

SCOPES = "generate adapters:read"


def credential(**claims: object) -> str:
    """A token that outlives the test."""
    return token(scope=SCOPES, exp=4_000_000_000, **claims)


def drive(url: str, *, verify: ssl.SSLContext | bool = True) -> None:
    """Chats, streams, errors, limits, cache, a composition, a batch."""
    headers = bearer(credential())
    with httpx.Client(base_url=url, headers=headers, timeout=60, verify=verify) as client:
        for prompt in ("code please", "creative please", "the weather"):
            for adapter in ("auto", "code", "creative", "base", "code:0.7+creative:0.3"):
                body = {"prompt": prompt, "adapter": adapter, "max_tokens": 8, "temperature": 0}
                for _ in range(2):  # the second is in the cache
                    assert client.post("/generate", json=body).status_code == 200
        chat = {"model": "code", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 16}
        with client.stream("POST", "/v1/chat/completions", json=chat | {"stream": True}) as answer:
            assert "[DONE]" in "".join(answer.iter_text())
        too_long = {"prompt": "word " * 5_000, "adapter": "code", "max_tokens": 8}
        assert client.post("/generate", json=too_long).status_code == 400
        assert client.post("/generate", json={"prompt": "x", "adapter": "nobody"}).status_code == 404
        small = bearer(credential(tenant="small", tier="small"))
        statuses = {
            client.post("/generate", json={"prompt": "x"}, headers=small).status_code for _ in range(3)
        }
        assert 429 in statuses
        _batch(client, chat)


def _batch(client: httpx.Client, chat: dict[str, object]) -> None:
    url = "/v1/chat/completions"
    line = json.dumps({"custom_id": "1", "method": "POST", "url": url, "body": chat})
    files = {"file": ("in.jsonl", line.encode()), "purpose": (None, "batch")}
    file_id = client.post("/v1/files", files=files).json()["id"]
    body = {"input_file_id": file_id, "endpoint": url, "completion_window": "24h"}
    batch = client.post("/v1/batches", json=body).json()["id"]
    until(
        lambda: client.get(f"/v1/batches/{batch}").json()["status"] == "completed", "the batch does not end"
    )
