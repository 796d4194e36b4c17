"""What is seen of requests: traces, and prompts in logs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from adaptive_lora.errors import SettingsError
from adaptive_lora.settings_loading import load_settings
from tests.settings.effects import key, serving
from tests.telemetry.otlp_receiver import Receiver, receiver

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
GENERATE = {"prompt": "hello", "adapter": "base", "max_tokens": 1}


async def traced(
    received: Receiver, *, n: int = 1, headers: dict[str, str] | None = None, **tracing: Any
) -> None:
    tracing = {"endpoint": received.url, "sample_ratio": 1, **tracing}
    async with serving(tracing=tracing) as client:
        for _ in range(n):
            assert (await client.post("/generate", json=GENERATE, headers=headers)).status_code == 200


@key("tracing.endpoint", "tracing.headers", "tracing.service_name")
async def test_traces_go_to_the_endpoint_with_its_headers_under_the_services_name() -> None:
    with receiver() as received:
        await traced(received, headers={}, service_name="fleet")
        assert received.paths
        assert set(received.paths) == {"/v1/traces"}
        assert "x-token" not in received.headers[0]
        assert {span.resource["service.name"] for span in received.spans} == {"fleet"}
    with receiver() as received:
        settings = {"endpoint": received.url, "sample_ratio": 1, "headers": "X-Token=a%2Cb, x-org=1"}
        async with serving(tracing=settings) as client:
            await client.post("/generate", json=GENERATE)
        assert (received.headers[0]["x-token"], received.headers[0]["x-org"]) == ("a,b", "1")


@key("tracing.sample_ratio")
async def test_a_share_of_requests_is_recorded() -> None:
    with receiver() as received:
        await traced(received, n=40, sample_ratio=0.5)
        assert 5 <= len(received.named("POST /generate")) <= 35
    with receiver() as received:
        await traced(received, n=5, sample_ratio=0)
        assert not received.spans


@key("tracing.continue_traces")
async def test_a_callers_trace_is_linked_or_continued() -> None:
    with receiver() as received:
        await traced(received, headers={"traceparent": PARENT})
        (root,) = received.named("POST /generate")
        assert root.trace_id != "a" * 32
        assert root.parent_id == ""
        assert root.links == [("a" * 32, "b" * 16)]
    with receiver() as received:
        await traced(received, headers={"traceparent": PARENT}, continue_traces=True)
        (root,) = received.named("POST /generate")
        assert (root.trace_id, root.parent_id, root.links) == ("a" * 32, "b" * 16, [])


@key("monitoring.log_prompts", "monitoring.log_secret")
async def test_logs_say_of_prompts_what_is_wanted(caplog: pytest.LogCaptureFixture) -> None:
    async def logged(**monitoring: Any) -> dict[str, Any]:
        caplog.clear()
        with caplog.at_level("INFO", logger="adaptive_lora.access"):
            async with serving(monitoring=monitoring) as client:
                await client.post("/generate", json=GENERATE)
        (line,) = [vars(record) for record in caplog.records if record.name == "adaptive_lora.access"]
        return {name: value for name, value in line.items() if name.startswith("prompt")}

    assert await logged(log_prompts="none") == {}
    first, again = [await logged(log_secret="s" * 32) for _ in range(2)]
    assert first == again
    assert first["prompt_chars"] == 5
    assert re.fullmatch("[0-9a-f]{16}", first["prompt_hash"])
    assert (await logged(log_secret="t" * 32))["prompt_hash"] != first["prompt_hash"]
    assert (await logged())["prompt_hash"] != (await logged())["prompt_hash"], "a key for each process"
    assert (await logged(log_prompts="full"))["prompt"] == "user: hello"


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", "OTEL_EXPORTER_OTLP_ENDPOINT: tracing.endpoint"),
        ("ADAPTIVE_LORA_TRACING__ENDPOINT", "https://user:pw@host", "must have no credentials in it"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret", "must be name=value"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "bad name=s3cret", "must be name=value"),
        ("ADAPTIVE_LORA_MONITORING__LOG_SECRET", "s3cret", "at least 32 bytes"),
    ],
)
def test_what_cannot_be_used_is_refused(variable: str, value: str, says: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(environ={variable: value})
    assert says in refused.value.message
    assert "s3cret" not in refused.value.message


def test_opentelemetrys_own_variables_are_other_names() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "OTEL_EXPORTER_OTLP_HEADERS": "a=b",
        "OTEL_SERVICE_NAME": "gateway",
    }
    tracing = load_settings(environ=environ).tracing
    assert (tracing.endpoint, tracing.service_name) == ("http://collector:4318", "gateway")
    assert tracing.headers is not None
    assert tracing.headers.get_secret_value() == "a=b"
