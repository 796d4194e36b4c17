"""What SageMaker, Vertex AI and Azure ML send a container, and what they must get back."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi import FastAPI
from prometheus_client import generate_latest

from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.errors import SettingsError
from adaptive_lora.serving.api import create_app
from adaptive_lora.serving.binding import check_bind
from adaptive_lora.settings_loading import known_keys, load_settings, variable
from adaptive_lora.telemetry.metrics import Metrics
from tests.serving.auth.conftest import open_gateway  # noqa: F401 - a fixture
from tests.serving.auth.signing import bearer, token
from tests.serving.conftest import Serve, ready, settings_of, until

ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to"
PRODUCTION = ROOT / "configs" / "serving" / "production.yaml"

SAGEMAKER = {"name": "sagemaker"}
VERTEX = {
    "name": "vertex",
    "predict_route": "/v1/endpoints/7/deployedModels/9:predict",
    "health_route": "/v1/endpoints/7/deployedModels/9",
}
AZUREML = {"name": "azureml"}
CONTRACTS = [
    (SAGEMAKER, "/invocations", "/ping"),
    ({"name": "vertex"}, "/predict", "/ready"),
    (VERTEX, VERTEX["predict_route"], VERTEX["health_route"]),
    (AZUREML, "/score", "/ready"),
]
CHAT = [{"role": "user", "content": "code please"}]


@pytest.fixture(params=CONTRACTS, ids=["sagemaker", "vertex", "vertex-default-routes", "azureml"])
def contract(request: pytest.FixtureRequest) -> tuple[dict[str, str], str, str]:
    found: tuple[dict[str, str], str, str] = request.param
    return found


def without(answer: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in names}


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/generate", {"prompt": "code please", "max_tokens": 4}),
        ("/generate", {"prompt": "code please", "max_tokens": 4, "adapter": "creative", "stream": True}),
        ("/v1/chat/completions", {"messages": CHAT, "max_tokens": 4}),
        ("/v1/chat/completions", {"messages": CHAT, "max_tokens": 4, "model": "creative", "stream": True}),
        ("/v1/completions", {"model": "auto", "prompt": "code please", "max_tokens": 4}),
        ("/v1/completions", {"model": "creative", "prompt": ["x", "y"], "max_tokens": 4}),
        ("/v1/completions", {"model": "base", "prompt": "x", "max_tokens": 4, "stream": True}),
    ],
)
async def test_each_body_is_answered_as_its_own_endpoint_answers_it(
    serve: Serve, contract: tuple[dict[str, str], str, str], endpoint: str, body: dict[str, Any]
) -> None:
    platform, predict, _ = contract
    async with serve(platform=platform) as client:
        ours = await client.post(endpoint, json=body)
        theirs = await client.post(predict, json=body)
    assert (theirs.status_code, ours.status_code) == (200, 200)
    assert theirs.headers["content-type"] == ours.headers["content-type"]
    who = [f"x-adaptive-lora-{name}" for name in ("agent", "version", "decision")]
    assert [theirs.headers[name] for name in who] == [ours.headers[name] for name in who]
    assert said(theirs) == said(ours)


def said(response: httpx.Response) -> list[Any]:
    """The answer without what differs between two requests: ids and times."""
    changing = ("request_id", "id", "created", "latency_ms", "adaptive_lora")
    if not response.headers["content-type"].startswith("text/event-stream"):
        return [without(response.json(), *changing)]
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert len(data) > 2, "a stream comes in pieces"
    return [each if each == "[DONE]" else without(json.loads(each), *changing) for each in data]


async def test_the_probe_is_503_until_it_serves_and_after(
    build: Callable[..., FastAPI], contract: tuple[dict[str, str], str, str]
) -> None:
    platform, _, health = contract
    app = build(engine=FakeEngine(), platform=platform)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        before = await client.get(health)
        assert (before.status_code, before.json()["error"]["code"]) == (503, "engine_not_ready")
        async with app.router.lifespan_context(app):
            await ready(client)
            assert (await client.get(health)).status_code == 200
        assert (await client.get(health)).status_code == 503


async def test_the_probe_is_answered_while_the_server_is_full_and_is_not_counted(
    serve: Serve, engine: FakeEngine, contract: tuple[dict[str, str], str, str]
) -> None:
    platform, predict, health = contract
    async with serve(platform=platform, api={"max_concurrent_requests": 1}) as client:
        engine._delay_s = 0.05
        running = asyncio.create_task(client.post(predict, json={"prompt": "x"}))
        await until(lambda: engine._running == 1)
        assert (await client.post(predict, json={"prompt": "x"})).status_code == 503
        assert (await client.get(health)).status_code == 200
        assert (await running).status_code == 200
    counted = generate_latest(metrics_of(client).registry).decode()
    assert f'route="{predict}"' in counted
    assert f'route="{health}"' not in counted


def metrics_of(client: httpx.AsyncClient) -> Metrics:
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    metrics: Metrics = transport.app.state.runtime.metrics  # type: ignore[attr-defined]
    return metrics


async def test_without_a_platform_none_of_its_routes_exist(client: httpx.AsyncClient) -> None:
    for path in ("/ping", "/invocations", "/predict", "/score"):
        assert (await client.request("GET" if path == "/ping" else "POST", path, json={})).status_code == 404


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Amzn-SageMaker-Adapter-Identifier", "creative"),
        ("X-Amzn-SageMaker-Custom-Attributes", "adapter=creative"),
        ("X-Amzn-SageMaker-Custom-Attributes", "trace=7; adapter=creative"),
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "code please", "max_tokens": 1},
        {"prompt": "code please", "max_tokens": 1, "adapter": "code"},
        {"model": "code", "messages": CHAT, "max_tokens": 1},
        {"model": "code", "prompt": "code please", "max_tokens": 1},
    ],
)
async def test_sagemakers_headers_name_the_agent_whatever_the_body_says(
    serve: Serve, header: str, value: str, body: dict[str, Any]
) -> None:
    async with serve(platform=SAGEMAKER) as client:
        named = await client.post("/invocations", json=body, headers={header: value})
        assert named.headers["x-adaptive-lora-agent"] == "creative"
        routed = await client.post(
            "/invocations", json=body, headers={header.replace("SageMaker", "Other"): value}
        )
        assert routed.headers["x-adaptive-lora-agent"] == "code"
    async with serve(platform=AZUREML) as client:
        other = await client.post("/score", json=body, headers={header: value})
        assert other.headers["x-adaptive-lora-agent"] == "code", "these headers are SageMaker's alone"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ([("X-Amzn-SageMaker-Adapter-Identifier", "nobody")], 404, "unknown_adapter"),
        ([("X-Amzn-SageMaker-Adapter-Identifier", "../code")], 400, "invalid_name"),
        ([("X-Amzn-SageMaker-Adapter-Identifier", "code")] * 2, 200, None),
        (
            [("X-Amzn-SageMaker-Adapter-Identifier", name) for name in ("code", "creative")],
            400,
            "invalid_request",
        ),
    ],
)
async def test_headers_that_name_nobody_are_errors(
    serve: Serve, headers: list[tuple[str, str]], status: int, code: str | None
) -> None:
    async with serve(platform=SAGEMAKER) as client:
        answer = await client.post("/invocations", json={"prompt": "x", "max_tokens": 1}, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.json().get("error", {}).get("code") == code


async def test_vertex_gets_a_prediction_for_each_instance(serve: Serve) -> None:
    body = {
        "instances": [
            {"prompt": "code please"},
            {"prompt": "code please", "adapter": "creative", "max_tokens": 2},
            {"prompt": "x", "adapter": "nobody"},
        ],
        "parameters": {"max_tokens": 3, "temperature": 0},
    }
    async with serve(platform=VERTEX) as client:
        answer = await client.post(VERTEX["predict_route"], json=body)
        batch = await client.post(
            "/generate/batch",
            json={"requests": [{"temperature": 0, "max_tokens": 3, **each} for each in body["instances"]]},
        )
    assert answer.status_code == 200
    assert answer.json().keys() == {"predictions"}
    first, second, third = answer.json()["predictions"]
    assert (first["adapter"], first["usage"]["completion_tokens"]) == ("code", 3)
    assert (second["adapter"], second["usage"]["completion_tokens"]) == ("creative", 2)
    assert third["error"]["code"] == "unknown_adapter"
    assert [each.get("text") for each in answer.json()["predictions"]] == [
        each.get("text") for each in batch.json()["results"]
    ]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"instances": []}, "instances"),
        ({"instances": [{"prompt": "x", "max_tokens": 0}]}, "instances.0.max_tokens"),
        ({"instances": [{"prompt": "x", "stream": True}]}, "instances.0.stream"),
        ({"instances": [{"prompt": "x"}], "parameters": {"max_tokns": 1}}, "parameters.max_tokns"),
        ({"instances": [{"prompt": "x"}] * 10_000}, "instances"),
        ({"messages": []}, "messages"),
        ({"prompt": ""}, "prompt"),
        ({}, "prompt"),
    ],
)
async def test_a_body_that_does_not_fit_names_the_field(
    serve: Serve, body: dict[str, Any], param: str
) -> None:
    async with serve(platform=VERTEX) as client:
        answer = await client.post(VERTEX["predict_route"], json=body)
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["param"] == param


async def test_a_platforms_callers_may_generate_and_change_nothing(serve: Serve) -> None:
    """Azure ML hands on every path of the container, and nobody asks for keys there."""
    async with serve(platform=AZUREML) as client:
        assert (await client.post("/score", json={"prompt": "x", "max_tokens": 1})).status_code == 200
        assert (await client.get("/v1/models")).status_code == 200
        for method, path in (
            ("POST", "/adapters"),
            ("GET", "/adapters"),
            ("DELETE", "/adapters/code/versions/prod"),
            ("POST", "/adapters/code/rollback"),
            ("GET", "/metrics"),
        ):
            refused = await client.request(
                method, path, json={"source": "hf://x/y"} if method == "POST" else None
            )
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden"), path


async def test_with_authentication_a_platforms_route_asks_for_a_key(open_gateway: Any) -> None:  # noqa: F811
    body = {"prompt": "x", "max_tokens": 1}
    for platform, predict, _ in CONTRACTS:
        async with open_gateway(platform=platform) as gateway:
            assert (await gateway.client.post(predict, json=body)).status_code == 401
            for scope, status in (("generate", 200), ("adapters:read", 403)):
                headers = bearer(token(scope=scope))
                assert (await gateway.client.post(predict, json=body, headers=headers)).status_code == status


def test_a_platform_is_no_leave_to_serve_without_keys() -> None:
    """It binds every address: whoever wants that without authentication says so, here as elsewhere."""
    named = {"ADAPTIVE_LORA_PLATFORM__NAME": "sagemaker"}
    with pytest.raises(SettingsError, match="authentication is off"):
        check_bind(load_settings(environ=named))
    check_bind(
        load_settings(
            environ=named
            | {"ADAPTIVE_LORA_AUTH__ENABLED": "false", "ADAPTIVE_LORA_AUTH__ALLOW_INSECURE": "true"}
        )
    )


@pytest.mark.parametrize(
    ("platform", "says"),
    [
        ({"name": "vertex", "predict_route": "/generate"}, "an endpoint of its own"),
        ({"name": "vertex", "health_route": "/generate"}, "an endpoint of its own"),
        ({"name": "vertex", "predict_route": "/ready"}, "an endpoint of its own"),
        ({"name": "vertex", "predict_route": "/x", "health_route": "/x"}, "both '/x'"),
    ],
)
def test_a_route_never_hides_an_endpoint(
    build: Callable[..., FastAPI], platform: dict[str, str], says: str
) -> None:
    assert settings_of(platform=platform).platform.name == "vertex"
    with pytest.raises(SettingsError, match=says):
        build(platform=platform)


PAGES = ("sagemaker", "vertex-ai", "azure-ml", "eks", "gke", "aks")


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_name_settings_that_exist(page: str) -> None:
    text = (HOW_TO / f"{page}.md").read_text()
    variables = {variable(key) for key in known_keys()}
    assert set(re.findall(r"ADAPTIVE_LORA_\w+", text)) <= variables
    sections = "|".join({key.partition(".")[0] for key in known_keys()})
    assert set(re.findall(rf"`((?:{sections})\.[a-z_]+)", text)) <= known_keys().keys()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (HOW_TO / target).exists(), target


def environment_of(page: str) -> dict[str, str]:
    """What the page's deployment sets, as pairs."""
    text = (HOW_TO / f"{page}.md").read_text().partition("## Deploy")[2]
    pair = r'\b(ADAPTIVE_LORA_\w+|BASE_MODEL)"?(?:: "?|=)([^"\s,]+)'
    return dict(re.findall(pair, text))


@pytest.mark.parametrize(
    ("page", "platform", "port"),
    [("sagemaker", "sagemaker", 8080), ("vertex-ai", "vertex", 8080), ("azure-ml", "azureml", 5001)],
)
def test_what_the_pages_set_starts_over_the_images_file(page: str, platform: str, port: int) -> None:
    settings = load_settings(PRODUCTION, environ=environment_of(page))
    assert (settings.platform.name, settings.api.host, settings.api.port) == (platform, "0.0.0.0", port)
    assert not settings.rate_limiting.enabled
    check_bind(settings)


def test_azures_probes_and_timeouts_are_ours() -> None:
    text = (HOW_TO / "azure-ml.md").read_text()
    deployment = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])  # type: ignore[index]
    routes = deployment["environment"]["inference_config"]
    app = create_app(settings_of(platform=AZUREML), engine=FakeEngine())
    for name, method in (("liveness_route", "get"), ("readiness_route", "get"), ("scoring_route", "post")):
        assert routes[name]["port"] == 5001
        assert method in app.openapi()["paths"][routes[name]["path"]]
    settings = load_settings(environ=environment_of("azure-ml"))
    assert settings.api.timeout * 1000 < deployment["request_settings"]["request_timeout_ms"]


@pytest.mark.parametrize("page", ["sagemaker", "vertex-ai", "azure-ml"])
def test_what_can_be_tried_here_can(page: str) -> None:
    text = (HOW_TO / f"{page}.md").read_text()
    script = re.search(r"## Try it here\n\n<!-- run by: .*?```bash\n(.*?)```", text, re.DOTALL)
    assert script is not None
    for port in set(re.findall(r"\b1\d{4}\b", script[1])):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            free = probe.getsockname()[1]
        block = script[1].replace(port, str(free))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    stop = "trap 'kill $server' EXIT\n"  # a block that fails leaves no server behind
    done = subprocess.run(
        ["bash", "-ec", stop + block.replace("kill $server\n", "")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": path},
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.replace('{"status":"ready"}', ""))
    texts = [each["text"] for each in answer.get("predictions", [answer]) if "text" in each]
    assert texts or answer["choices"][0]["message"]["content"]
