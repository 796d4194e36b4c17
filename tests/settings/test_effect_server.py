"""What the process itself is set to: how it ends, and how many may be connected."""

from __future__ import annotations

import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest

from adaptive_lora.errors import SettingsError
from adaptive_lora.settings_loading import load_settings
from tests.serving.gateway_process import GatewayProcess
from tests.settings.effects import key, serving


@contextmanager
def gateway(**api: Any) -> Iterator[GatewayProcess]:
    process = GatewayProcess(token_s=0.02, api=api)
    try:
        process.wait_until_ready()
        yield process
    finally:
        process.close()


@key("api.drain_seconds")
@pytest.mark.parametrize("drain_seconds", [0, 3_000])
def test_after_sigterm_it_serves_on_for_as_long_as_is_set(drain_seconds: int) -> None:
    with gateway(drain_seconds=drain_seconds, grace_seconds=3_600) as process:
        process.signal(signal.SIGTERM)
        if not drain_seconds:
            assert process.process.wait(60) == 0
            return
        while httpx.get(f"{process.url}/ready").status_code == 200:
            pass
        assert httpx.post(f"{process.url}/generate", json={"prompt": "x", "max_tokens": 1}).status_code == 200


@key("api.grace_seconds")
def test_it_waits_for_no_request_beyond_the_grace_period() -> None:
    """This one would take a minute and a half."""
    with gateway(grace_seconds=1) as process, httpx.Client(base_url=process.url, timeout=60) as client:
        body = {"prompt": "x", "max_tokens": 4_000, "ignore_eos": True, "stream": True}
        with client.stream("POST", "/generate", json=body) as answer:
            text = answer.iter_text()
            next(text)
            process.signal(signal.SIGTERM)
            assert '"code":"shutting_down"' in "".join(text)
        assert process.process.wait(60) == 0


def test_the_wait_must_leave_time_to_finish() -> None:
    with pytest.raises(SettingsError, match="must be less than grace_seconds"):
        load_settings(flags={"api.drain_seconds": 30}, environ={})


@key("api.max_connections")
def test_beyond_the_limit_the_longest_idle_connection_is_closed() -> None:
    with gateway(max_connections=2) as process:
        first, *_ = connections = [socket.create_connection(("127.0.0.1", process.port)) for _ in range(3)]
        first.settimeout(60)
        with suppress(ConnectionResetError):
            assert first.recv(1) == b""
        for connection in connections:
            connection.close()


@key("monitoring.metrics_host", "monitoring.metrics_port")
def test_prometheus_has_a_port_of_its_own_without_a_key() -> None:
    monitoring = {"metrics_host": "127.0.0.2", "metrics_port": 0}
    auth = {"enabled": True, "jwt_secret": secrets.token_urlsafe(48)}
    process = GatewayProcess(monitoring=monitoring, auth=auth)
    try:
        process.wait_until_ready()
        (told,) = (line for line in process.messages() if line.startswith("listening for Prometheus on "))
        url = told.rpartition(" ")[2]
        assert url.startswith("http://127.0.0.2:")
        assert httpx.get(f"{process.url}/metrics").status_code == 401
        answer = httpx.get(f"{url}/metrics")
        assert (answer.status_code, "\nadaptive_lora_ready 1.0" in answer.text) == (200, True)
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert httpx.get(f"{url}/metrics", headers={"host": "evil.example"}).status_code == 421
        for path in ("/", "/health", "/v1/models", "/docs", "/openapi.json"):
            assert httpx.get(f"{url}{path}").status_code == 404, path
        assert httpx.post(f"{url}/generate", json={"prompt": "x"}).status_code == 404
        process.signal(signal.SIGTERM)
        assert process.process.wait(60) == 0
    finally:
        process.close()


def test_a_port_for_metrics_that_are_switched_off_is_a_mistake() -> None:
    flags = {"monitoring.metrics_port": 0, "monitoring.prometheus_enabled": False}
    with pytest.raises(SettingsError, match="contradict"):
        load_settings(flags=flags, environ={})


@key("platform.name", "platform.predict_route", "platform.health_route")
async def test_a_platforms_contract_is_answered_where_it_is_named() -> None:
    for platform, predict, health in (
        ({"name": "sagemaker"}, "/invocations", "/ping"),
        ({"name": "azureml", "predict_route": "/answer", "health_route": "/healthz"}, "/answer", "/healthz"),
    ):
        body = {"prompt": "x", "max_tokens": 1}
        async with serving(platform=platform) as client:
            assert (await client.get(health)).status_code == 200
            assert (await client.post(predict, json=body)).json()["adapter"] == "base"
        async with serving() as client:
            assert (await client.get(health)).status_code == 404
            assert (await client.post(predict, json=body)).status_code == 404
