"""Who may do what: every operation, every scope, every set of agents, against what the table here says.

The table must name each operation of the two documents, so a new route without a row fails.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from adaptive_lora.serving.admin import create_admin_app
from adaptive_lora.serving.principal import SCOPES
from tests.serving.auth.conftest import Gateway, OpenGateway
from tests.serving.auth.signing import bearer, token
from tests.serving.conftest import agent

AGENTS = ("walnut", "hazel")
"""Words that stand in no message but as these names."""
TENANTS: dict[str, list[str] | None] = {
    "acme": ["walnut"],
    "beta": ["hazel"],
    "both": ["walnut", "hazel", "absent"],
    "gamma": [],
    "ops": None,
}
"""Tenants, with the agents that their tokens are for."""


@dataclass(frozen=True)
class Row:
    """One operation: what it needs, and a request that changes nothing of weight."""

    scope: str | None
    """None: open to anybody."""
    method: str
    path: str
    body: dict[str, Any] | None = None
    names_agent: bool = False
    """The request is about one agent, written {agent}."""
    admin: bool = False

    def request(self, agent: str) -> dict[str, Any]:
        path = self.path.replace("{agent}", agent)
        body = (
            None
            if self.body is None
            else {
                key: value.replace("{agent}", agent) if isinstance(value, str) else value
                for key, value in self.body.items()
            }
        )
        return {"method": self.method, "url": path, "json": body}


NO_FILE, NO_BATCH = "file-" + "0" * 32, "batch_" + "0" * 32
CHAT = [{"role": "user", "content": "x"}]
ROWS = {
    "GET /live": Row(None, "GET", "/live"),
    "GET /ready": Row(None, "GET", "/ready"),
    "GET /health": Row(None, "GET", "/health"),
    "GET /metrics": Row("metrics", "GET", "/metrics"),
    "POST /generate": Row(
        "generate", "POST", "/generate", {"prompt": "x", "adapter": "{agent}", "max_tokens": 1}, True
    ),
    "POST /generate/batch": Row(
        "generate", "POST", "/generate/batch", {"prompts": ["x"], "adapter": "{agent}", "max_tokens": 1}
    ),
    "POST /route": Row("generate", "POST", "/route", {"prompt": "x"}),
    "POST /v1/chat/completions": Row(
        "generate",
        "POST",
        "/v1/chat/completions",
        {"model": "{agent}", "messages": CHAT, "max_tokens": 1},
        True,
    ),
    "POST /v1/completions": Row(
        "generate", "POST", "/v1/completions", {"model": "{agent}", "prompt": "x", "max_tokens": 1}, True
    ),
    "POST /v1/files": Row("generate", "POST", "/v1/files", {}),
    "GET /v1/files": Row("generate", "GET", "/v1/files"),
    "GET /v1/files/{file_id}": Row("generate", "GET", f"/v1/files/{NO_FILE}"),
    "GET /v1/files/{file_id}/content": Row("generate", "GET", f"/v1/files/{NO_FILE}/content"),
    "DELETE /v1/files/{file_id}": Row("generate", "DELETE", f"/v1/files/{NO_FILE}"),
    "POST /v1/batches": Row(
        "generate",
        "POST",
        "/v1/batches",
        {"input_file_id": NO_FILE, "endpoint": "/v1/completions", "completion_window": "24h"},
    ),
    "GET /v1/batches": Row("generate", "GET", "/v1/batches"),
    "GET /v1/batches/{batch_id}": Row("generate", "GET", f"/v1/batches/{NO_BATCH}"),
    "POST /v1/batches/{batch_id}/cancel": Row("generate", "POST", f"/v1/batches/{NO_BATCH}/cancel"),
    "GET /v1/models": Row("generate", "GET", "/v1/models"),
    "GET /v1/models/{model}": Row("generate", "GET", "/v1/models/{agent}", names_agent=True),
    "GET /adapters": Row("adapters:read", "GET", "/adapters"),
    "GET /adapters/{name}": Row("adapters:read", "GET", "/adapters/{agent}", names_agent=True),
    "GET /adapters/{name}/history": Row(
        "adapters:read", "GET", "/adapters/{agent}/history", names_agent=True
    ),
    "POST /adapters": Row("adapters:write", "POST", "/adapters", {"source": "hf://nobody/{agent}"}),
    "POST /adapters:upload": Row("adapters:write", "POST", "/adapters:upload", {}),
    "POST /adapters/{name}/versions/{ref}/{action}": Row(
        "adapters:write", "POST", "/adapters/{agent}/versions/prod/load", names_agent=True
    ),
    "DELETE /adapters/{name}/versions/{ref}": Row(
        "adapters:write", "DELETE", "/adapters/{agent}/versions/prod", names_agent=True
    ),
    "PUT /adapters/{name}/aliases/{alias}": Row(
        "adapters:write", "PUT", "/adapters/{agent}/aliases/blue", {"version": "prod"}, True
    ),
    "DELETE /adapters/{name}/aliases/{alias}": Row(
        "adapters:write", "DELETE", "/adapters/{agent}/aliases/nowhere", names_agent=True
    ),
    "POST /adapters/{name}/promote": Row("adapters:write", "POST", "/adapters/{agent}/promote", {}, True),
    "POST /adapters/{name}/rollback": Row("adapters:write", "POST", "/adapters/{agent}/rollback", {}, True),
    "POST /invocations": Row(
        "generate", "POST", "/invocations", {"prompt": "x", "adapter": "{agent}", "max_tokens": 1}, True
    ),
    "GET /ping": Row(None, "GET", "/ping"),
    "POST /keys": Row("admin", "POST", "/keys", {"name": "x", "scopes": ["generate"]}, admin=True),
    "GET /keys": Row("admin", "GET", "/keys", admin=True),
    "DELETE /keys/{key_id}": Row("admin", "DELETE", "/keys/000000000000", admin=True),
    "POST /tokens:revoke": Row("admin", "POST", "/tokens:revoke", {"jti": "x"}, admin=True),
    "GET /audit": Row("admin", "GET", "/audit", admin=True),
    "GET /debug/profile": Row("admin", "GET", "/debug/profile", admin=True),
    "POST /debug/profile/cpu": Row("admin", "POST", "/debug/profile/cpu?seconds=0.01", admin=True),
    "POST /debug/profile/memory": Row("admin", "POST", "/debug/profile/memory?seconds=0.01", admin=True),
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AGENTS, and one that the engine refuses."""
    folder = tmp_path_factory.mktemp("fleet")
    for seed, name in enumerate(AGENTS):
        agent(name, seed=seed, folder=folder)
    agent("big", seed=3, folder=folder, rank=128)
    return folder


@pytest.fixture
async def gateway(open_gateway: OpenGateway, fleet: Path) -> AsyncIterator[Gateway]:
    async with open_gateway(adapters={"path": fleet}, platform={"name": "sagemaker"}) as gateway:
        yield gateway


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


async def test_every_operation_has_a_row_and_the_document_says_what_it_needs(gateway: Gateway) -> None:
    documents = (gateway.app.openapi(), create_admin_app(gateway.app).openapi())
    found = dict(itertools.chain.from_iterable(map(operations, documents)))
    assert found.keys() == ROWS.keys()
    for name, operation in found.items():
        scope = ROWS[name].scope
        assert operation.get("security", []) == ([] if scope is None else [{"bearer": [scope]}]), name
        if scope is not None:
            assert {"401", "403", "503"} <= operation["responses"].keys(), name
    for document in documents:
        assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"


async def test_every_route_is_documented_or_known_to_be_open(gateway: Gateway) -> None:
    """A route that is left out of the document is not left out of the guard."""
    hidden = {
        route.path
        for app in (gateway.app, create_admin_app(gateway.app))
        for route in app.routes
        if not getattr(route, "include_in_schema", False)
    }
    assert hidden == {"/", "/docs", "/openapi.json"}


async def answer(gateway: Gateway, row: Row, name: str, headers: dict[str, str]) -> httpx.Response:
    client = gateway.admin if row.admin else gateway.client
    return await client.request(**row.request(name), headers=headers)


def without_id(response: httpx.Response, agent: str) -> tuple[int, str]:
    """What a caller can tell answers apart by."""
    text = response.text.replace(response.headers["x-request-id"], "ID")
    return response.status_code, text.replace(agent, "AGENT")


@pytest.mark.parametrize("name", ROWS)
async def test_without_credentials_and_with_wrong_ones(gateway: Gateway, name: str) -> None:
    row = ROWS[name]
    for headers in ({}, bearer("x"), bearer("alk_000000000000_" + "x" * 43), {"authorization": "Basic YTpi"}):
        response = await answer(gateway, row, "walnut", headers)
        if row.scope is None:
            assert response.status_code == 200
        else:
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "unauthenticated"
            assert response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("name", ROWS)
async def test_tenants_scopes_and_agents(gateway: Gateway, name: str) -> None:
    row = ROWS[name]
    for tenant, scope, about in itertools.product(TENANTS, (*SCOPES, ""), AGENTS):
        allowed = TENANTS[tenant]
        headers = bearer(token(sub=tenant, tenant=tenant, scope=scope, agents=allowed))
        response = await answer(gateway, row, about, headers)
        case = f"{name} as {tenant} with {scope!r} about {about}: {response.status_code} {response.text}"
        code = response.json()["error"]["code"] if response.status_code >= 400 else None
        if row.scope is not None and scope not in (row.scope, "admin"):
            assert (response.status_code, code) == (403, "forbidden"), case
            assert f"{row.scope!r}" in response.text, case
        elif row.path == "/metrics":
            assert response.status_code == (200 if allowed is None else 403), case
        elif row.names_agent and allowed is not None and about not in allowed:
            assert response.status_code == 404, case
            absent = await answer(gateway, row, "absent-about", headers)
            expected = without_id(absent, "absent-about")
            assert without_id(response, about) == expected, "it is as if there were no such agent"
        else:
            assert code not in ("unauthenticated", "forbidden", "internal_error"), case
            assert response.status_code in (200, 201, 204, 400, 403, 404, 409, 415), case
            if row.names_agent and row.method == "GET":
                assert response.status_code == 200, case
        if allowed is not None:
            others = set(AGENTS) - set(allowed) - ({about} if row.names_agent or row.body else set())
            shown = response.text + str(response.headers)
            assert not [other for other in others if other in shown], case


@pytest.mark.parametrize("tenant", TENANTS)
async def test_lists_show_what_a_tenant_may_use(gateway: Gateway, tenant: str) -> None:
    allowed = TENANTS[tenant]
    names = {name for name in AGENTS if allowed is None or name in allowed}
    headers = bearer(token(tenant=tenant, scope="generate adapters:read", agents=allowed))
    models = (await gateway.client.get("/v1/models", headers=headers)).json()["data"]
    assert {model["id"].partition("@")[0] for model in models} == {"auto", "base", *names}
    fleet = (await gateway.client.get("/adapters", headers=headers)).json()
    assert {adapter["name"] for adapter in fleet["adapters"]} == names
    assert [each["folder"] for each in fleet["rejected"]] == (["big"] if allowed is None else [])
    health = (await gateway.client.get("/health", headers=headers)).json()
    assert {version.partition("@")[0] for version in health["adapters"]} == names
    assert health["rejected"] == (["big"] if allowed is None else [])
    assert (health["engine"] is not None) == (allowed is None), "it counts everybody's agents and requests"


@pytest.mark.parametrize("tenant", TENANTS)
async def test_the_router_sees_only_what_a_tenant_may_use(gateway: Gateway, tenant: str) -> None:
    allowed = TENANTS[tenant]
    headers = bearer(token(tenant=tenant, agents=allowed))
    for name in AGENTS:
        prompt = f"{name} please"
        mine = allowed is None or name in allowed
        routed = await gateway.client.post("/route", json={"prompt": prompt}, headers=headers)
        assert routed.status_code == 200, routed.text
        assert routed.json()["agent"] == (name if mine else "base")
        body = {"prompt": prompt, "max_tokens": 1}
        generated = await gateway.client.post("/generate", json=body, headers=headers)
        assert generated.json()["adapter"] == (name if mine else "base")
        batch = await gateway.client.post(
            "/generate/batch", json={"prompts": [prompt], "adapter": name, "max_tokens": 1}, headers=headers
        )
        (result,) = batch.json()["results"]
        assert result["adapter"] == name if mine else result["error"]["code"] == "unknown_adapter"
        streamed = await gateway.client.post(
            "/v1/chat/completions",
            json={"model": "auto", "messages": [{"role": "user", "content": prompt}], "stream": True},
            headers=headers,
        )
        assert streamed.headers["x-adaptive-lora-agent"] == (name if mine else "base")
        several = await gateway.client.post(
            "/v1/completions",
            json={"model": "auto", "prompt": [f"{each} please" for each in AGENTS], "max_tokens": 1},
            headers=headers,
        )
        expected = [each if allowed is None or each in allowed else "base" for each in AGENTS]
        assert several.headers["x-adaptive-lora-agent"].split(",") == expected


@pytest.mark.parametrize(
    ("name", "known_to"),
    [("walnut:0.5+hazel:0.5", {"ops", "both"}), ("walnut@prod:1", {"ops", "both", "acme"}),
     ("walnut@prod", {"ops", "both", "acme"}), ("hazel@prod", {"ops", "both", "beta"})],
)  # fmt: skip
async def test_compositions_and_aliases_of_allowed_agents_only(
    gateway: Gateway, name: str, known_to: set[str]
) -> None:
    for tenant, allowed in TENANTS.items():
        headers = bearer(token(tenant=tenant, agents=allowed))
        body = {"prompt": "x", "adapter": name, "max_tokens": 1}
        response = await gateway.client.post("/generate", json=body, headers=headers)
        assert (response.status_code == 404) == (tenant not in known_to), (tenant, response.text)


async def test_an_error_lists_the_tenants_own_agents(gateway: Gateway) -> None:
    headers = bearer(token(agents=["hazel"]))
    body = {"prompt": "x", "adapter": "nobody"}
    response = await gateway.client.post("/generate", json=body, headers=headers)
    message = response.json()["error"]["message"]
    assert message == "there is no agent 'nobody'; agents: hazel; also 'auto' and 'base'"


async def test_who_is_not_known_reads_the_status_alone(gateway: Gateway) -> None:
    assert (await gateway.client.get("/health")).json() == {"status": "ready"}
    gateway.app.state.runtime.phase = "failed"
    gateway.app.state.runtime.detail = "postgresql://secret"
    try:
        for path in ("/health", "/ready"):
            response = await gateway.client.get(path)
            assert response.status_code == 503
            assert "secret" not in response.text
        known = await gateway.client.get("/health", headers=bearer(token()))
        assert "postgresql://secret" in known.text
    finally:
        gateway.app.state.runtime.phase = "ready"
