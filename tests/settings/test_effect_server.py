"""What the process itself is set to: how it ends, and how many may be connected."""

from __future__ import annotations

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
from tests.settings.effects import key


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
