"""From a request to the spans that a collector receives, and the trace's id in logs and at workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from adaptive_lora.engine.factory import schedule
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.serving.api import create_app
from adaptive_lora.settings import AdmissionSettings
from adaptive_lora.telemetry.logging import RequestIdFilter
from tests.serving.conftest import KeywordRouter, serving, settings_of, until
from tests.telemetry.otlp_receiver import Received, Receiver, receiver

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
UNSAMPLED = PARENT[:-1] + "0"
SECRET = "walnut-secret"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": f"code {SECRET}"}], "max_tokens": 5}


@asynccontextmanager
async def gateway(received: Receiver | None, **sections: Any) -> AsyncIterator[httpx.AsyncClient]:
    """On the fake engine with its queue; traces every request to `received`."""
    if received is not None:
        sections["tracing"] = {"endpoint": received.url, "sample_ratio": 1, **sections.get("tracing", {})}
    engine = schedule(FakeEngine(), AdmissionSettings(), n_slots=8, max_num_seqs=8)
    app = create_app(settings_of(**sections), engine=engine, router=KeywordRouter())
    async with serving(app) as client:
        yield client


def below(received: Receiver, parent: Received) -> list[Received]:
    """Its children, by their beginning."""
    found = [span for span in received.spans if span.parent_id == parent.span_id]
    return sorted(found, key=lambda span: (span.start_ns, span.end_ns))


@pytest.mark.parametrize("stream", [False, True])
async def test_one_request_is_one_trace(stream: bool) -> None:
    with receiver() as received:
        async with gateway(received) as client:
            body = CHAT | {"model": "auto", "stream": stream}
            response = await client.post("/v1/chat/completions?secret=1", json=body)
            assert response.status_code == 200
        (root,) = [span for span in received.spans if not span.parent_id]
        assert (root.name, root.kind) == ("POST /v1/chat/completions", 2)
        assert {span.trace_id for span in received.spans} == {root.trace_id}
        expected = {
            "http.request.method": "POST",
            "http.route": "/v1/chat/completions",
            "url.path": "/v1/chat/completions",
            "http.response.status_code": 200,
            "adaptive_lora.request_id": response.headers["x-request-id"],
            "adaptive_lora.agent": "code",
            "adaptive_lora.decision": "routed",
            "adaptive_lora.outcome": "success",
        }
        assert expected.items() <= root.attributes.items()
        route, generation = below(received, root)
        assert (route.name, generation.name) == ("route", "chat code")
        assert route.attributes["adaptive_lora.decision"] == "routed"
        assert [span.name for span in below(received, generation)] == ["queue", "prefill", "decode"]
        expected = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "auto",
            "gen_ai.request.max_tokens": 5,
            "gen_ai.response.finish_reasons": ["length"],
            "gen_ai.usage.output_tokens": 5,
        }
        assert expected.items() <= generation.attributes.items()
        assert generation.attributes["gen_ai.response.model"].startswith("code@")
        for span in received.spans:
            assert root.start_ns <= span.start_ns <= span.end_ns <= root.end_ns
            assert not span.is_error
        assert SECRET.encode() not in b"".join(received.raw)
        assert b"secret=1" not in b"".join(received.raw)


async def test_what_the_cache_answers_has_no_generation() -> None:
    with receiver() as received:
        async with gateway(received, inference={"cache_enabled": True}) as client:
            for _ in range(2):
                await client.post("/generate", json={"prompt": "x", "adapter": "code", "temperature": 0})
        first, second = received.named("POST /generate")
        assert (first.attributes["adaptive_lora.cache"], second.attributes["adaptive_lora.cache"]) == (
            "miss",
            "hit",
        )
        assert "chat code" in {span.name for span in below(received, first)}
        assert not below(received, second)


async def test_every_item_of_a_batch_has_its_generation() -> None:
    with receiver() as received:
        async with gateway(received) as client:
            await client.post("/generate/batch", json={"prompts": ["code", "creative", "x"], "max_tokens": 1})
        (root,) = received.named("POST /generate/batch")
        names = sorted(span.name for span in below(received, root) if span.name.startswith("chat"))
        assert names == ["chat base", "chat code", "chat creative"]


async def test_errors_are_marked_where_they_are_ours() -> None:
    with receiver() as received:
        engine = FakeEngine()
        app = create_app(
            settings_of(tracing={"endpoint": received.url, "sample_ratio": 1}),
            engine=engine,
            router=KeywordRouter(),
        )
        async with serving(app) as client:
            assert (await client.post("/generate", json={"prompt": SECRET, "adapter": "nobody"})).is_error
            assert (await client.get(f"/nowhere/{SECRET}")).is_error
            assert (await client.request("BREW", "/adapters")).is_error
            engine.die()
            assert (await client.post("/generate", json={"prompt": SECRET, "adapter": "base"})).is_error
        wrong, broken = received.named("POST /generate")
        assert (wrong.is_error, wrong.attributes["http.response.status_code"]) == (False, 404)
        assert (broken.is_error, broken.attributes["error.type"]) == (True, "503")
        (unmatched,) = received.named("GET")
        assert "url.path" not in unmatched.attributes
        (odd,) = received.named("HTTP /adapters")
        assert odd.attributes["http.request.method"] == "_OTHER"
        (generation,) = received.named("chat base")
        assert (generation.is_error, generation.attributes["error.type"]) == (True, "engine_dead")
        assert SECRET.encode() not in b"".join(received.raw)


async def test_a_client_that_goes_away_is_no_error() -> None:
    with receiver() as received:
        engine = FakeEngine()
        settings = settings_of(tracing={"endpoint": received.url, "sample_ratio": 1})
        app = create_app(settings, engine=engine, router=KeywordRouter())
        async with serving(app):
            engine._delay_s = 0.02
            await call_and_leave(app, engine)
        (root,) = received.named("POST /generate")
        assert root.attributes["adaptive_lora.outcome"] == "aborted"
        assert "http.response.status_code" not in root.attributes
        (generation,) = received.named("chat base")
        assert generation.attributes["adaptive_lora.outcome"] == "aborted"
        assert not root.is_error
        assert not generation.is_error


async def call_and_leave(app: FastAPI, engine: FakeEngine) -> None:
    body = json.dumps({"prompt": "x", "adapter": "base", "max_tokens": 4000}).encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/generate",
        "raw_path": b"/generate",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "scheme": "http",
        "http_version": "1.1",
    }
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await until(lambda: engine._running == 1)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None: ...

    async with asyncio.timeout(30):
        await app(scope, receive, send)  # type: ignore[arg-type]


async def test_a_stranger_decides_nothing() -> None:
    with receiver() as received:
        async with gateway(received, tracing={"sample_ratio": 0}) as client:
            await client.post("/generate", json={"prompt": "x"}, headers={"traceparent": PARENT})
        assert not received.spans
    with receiver() as received:
        async with gateway(received) as client:
            for headers in (
                {"traceparent": UNSAMPLED},
                [("traceparent", PARENT), ("traceparent", PARENT)],
                {"traceparent": "00-x"},
            ):
                await client.post("/generate", json={"prompt": "x"}, headers=headers)
        roots = received.named("POST /generate")
        assert [root.links for root in roots] == [[("a" * 32, "b" * 16)], [], []]
        assert not any(root.trace_id == "a" * 32 for root in roots)


async def test_a_trusted_caller_decides() -> None:
    with receiver() as received:
        async with gateway(received, tracing={"sample_ratio": 0, "continue_traces": True}) as client:
            await client.post("/generate", json={"prompt": "x"})
            await client.post("/generate", json={"prompt": "x"}, headers={"traceparent": PARENT})
        (root,) = received.named("POST /generate")
        assert (root.trace_id, root.parent_id) == ("a" * 32, "b" * 16)
    with receiver() as received:
        async with gateway(received, tracing={"continue_traces": True}) as client:
            await client.post("/generate", json={"prompt": "x"}, headers={"traceparent": UNSAMPLED})
        assert not received.spans


async def test_probes_have_no_trace() -> None:
    with receiver() as received:
        async with gateway(received) as client:
            for path in ("/live", "/ready", "/health", "/metrics"):
                await client.get(path, headers={"traceparent": PARENT})
        assert not received.spans


async def test_every_line_of_a_request_names_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(RequestIdFilter())
    caplog.set_level("INFO")

    async def lines(received: Receiver | None, **tracing: Any) -> list[dict[str, Any]]:
        async with gateway(received, **({"tracing": tracing} if tracing else {})) as client:
            caplog.clear()
            response = await client.post("/generate", json={"prompt": "x"}, headers={"traceparent": PARENT})
            request_id = response.headers["x-request-id"]
            found = [vars(record) for record in caplog.records]
        return [line for line in found if line["request_id"] == request_id]

    with receiver() as received:
        for line in await lines(received):
            assert line["client_trace_id"] == "a" * 32
            ids = line["trace_id"], line["span_id"]
        (root,) = received.named("POST /generate")
        assert (root.trace_id, root.span_id) == ids
    with receiver() as received:
        (line,) = await lines(received, sample_ratio=0)
        assert len(line["trace_id"]) == 32, "also of a request that is not recorded"
    (line,) = await lines(None)
    assert "trace_id" not in line
    assert line["client_trace_id"] == "a" * 32
    (line,) = await lines(None, continue_traces=True)
    assert (line["trace_id"], line["span_id"]) == ("a" * 32, "b" * 16)
    assert "client_trace_id" not in line
