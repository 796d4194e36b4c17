import json
import re
from typing import Any

import httpx
import pytest

from adaptive_lora.engine.fake import FakeEngine
from tests.serving.conftest import CODE, CREATIVE, Listen, Serve

ANSWER_KEYS = [
    "request_id", "text", "adapter", "version", "confidence", "finish_reason", "usage", "latency_ms",
]  # fmt: skip


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    events = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        event, data = block.split("\n")
        events.append((event.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


async def test_the_router_decides_and_the_answer_says_so(client: httpx.AsyncClient) -> None:
    response = await client.post("/generate", json={"prompt": "some code, please"})
    body = response.json()
    assert response.status_code == 200
    assert list(body) == ANSWER_KEYS
    assert (body["adapter"], body["version"], body["confidence"]) == ("code", CODE.version, 0.9)
    assert body["text"]
    assert (
        body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
    )
    assert response.headers["x-adaptive-lora-agent"] == "code"
    assert response.headers["x-adaptive-lora-version"] == CODE.version
    assert response.headers["x-adaptive-lora-confidence"] == "0.9000"
    assert response.headers["x-adaptive-lora-decision"] == "routed"
    assert response.headers["x-request-id"] == body["request_id"]


@pytest.mark.parametrize(
    ("adapter", "agent"),
    [("base", "base"), ("creative", "creative"), (f"code@{CODE.version[:4]}", "code"), ("auto", "base")],
)
async def test_a_named_adapter_answers(client: httpx.AsyncClient, adapter: str, agent: str) -> None:
    body = (await client.post("/generate", json={"prompt": "hello", "adapter": adapter})).json()
    assert body["adapter"] == agent


async def test_agents_answer_differently_and_each_the_same_again(client: httpx.AsyncClient) -> None:
    texts = []
    for adapter in ("base", "code", "creative", "code"):
        body = (await client.post("/generate", json={"prompt": "hello", "adapter": adapter})).json()
        texts.append(body["text"])
    assert texts[1] == texts[3]
    assert len(set(texts)) == 3


@pytest.mark.parametrize(
    ("body", "status", "code", "tells"),
    [
        ({"prompt": "x", "adapter": "law"}, 404, "unknown_adapter", "code, creative"),
        ({"prompt": "x", "adapter": "../x"}, 400, "invalid_name", "code@3f9c2a"),
        ({"prompt": "x", "adapter": "team/review"}, 400, "unsupported", "not served yet"),
        ({"prompt": "w " * 5000}, 400, "prompt_too_long", "context"),
        ({"prompt": "x", "min_tokens": 5, "max_tokens": 2}, 400, "invalid_request", "min_tokens"),
        ({}, 422, "invalid_request", "prompt"),
        ({"prompt": ""}, 422, "invalid_request", "prompt"),
        ({"prompt": "x" * 32_001}, 422, "invalid_request", "32000"),
        ({"prompt": "x\x00"}, 422, "invalid_request", "control character U\\+0000"),
        ({"prompt": "x\x1b[0m"}, 422, "invalid_request", "control character"),
        ({"prompt": "Cafe\u0301"}, 422, "invalid_request", "NFC"),
        ({"prompt": 7}, 422, "invalid_request", "string"),
        ({"prompt": "x", "promt": "x"}, 422, "invalid_request", "promt: there is no such field"),
        ({"prompt": "x", "max_tokens": 0}, 422, "invalid_request", "max_tokens"),
        ({"prompt": "x", "max_tokens": "12"}, 422, "invalid_request", "max_tokens"),
        ({"prompt": "x", "temperature": -1}, 422, "invalid_request", "temperature"),
        ({"prompt": "x", "stop": ["x"] * 17}, 422, "invalid_request", "stop"),
        ({"prompt": "x", "json_schema": {"$ref": "http://x"}}, 422, "invalid_request", "ref"),
    ],
)
async def test_what_cannot_be_served_is_told_why(
    client: httpx.AsyncClient, body: dict[str, Any], status: int, code: str, tells: str
) -> None:
    response = await client.post("/generate", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert error["request_id"] == response.headers["x-request-id"]

    assert re.search(tells, error["message"])


async def test_lone_surrogates_are_refused(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json"}
    response = await client.post("/generate", content=b'{"prompt": "x\\ud800"}', headers=headers)
    assert response.status_code == 422


async def test_newlines_and_tabs_are_text(client: httpx.AsyncClient) -> None:
    assert (await client.post("/generate", json={"prompt": "a\n\tb\r\nc"})).status_code == 200


async def test_stop_seed_and_schema_reach_the_engine(client: httpx.AsyncClient) -> None:
    async def text(**options: object) -> str:
        body = (await client.post("/generate", json={"prompt": "hello", "adapter": "base", **options})).json()
        return str(body["text"])

    whole = await text()
    word = whole.split()[2]
    assert await text(stop=word) == whole[: whole.index(word)]
    assert await text(temperature=1.0, seed=1) == await text(temperature=1.0, seed=1)
    assert await text(temperature=1.0, seed=1) != await text(temperature=1.0, seed=2)
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    assert json.loads(await text(json_schema=schema)) == {"n": 0}


async def test_raw_text_is_not_put_into_the_chat_template(client: httpx.AsyncClient) -> None:
    sizes = []
    for raw in (False, True):
        body = (await client.post("/generate", json={"prompt": "one two", "raw": raw})).json()
        sizes.append(body["usage"]["prompt_tokens"])
    assert sizes == [4, 2]


async def test_a_stream_starts_says_tokens_and_is_done(client: httpx.AsyncClient) -> None:
    whole = (await client.post("/generate", json={"prompt": "code"})).json()
    response = await client.post("/generate", json={"prompt": "code", "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-adaptive-lora-agent"] == "code"
    events = events_of(response.text)
    names = [name for name, _ in events]
    assert names[0] == "start"
    assert names[-1] == "done"
    assert set(names[1:-1]) == {"token"}
    assert len(names) > 3
    assert "".join(data["text"] for name, data in events if name == "token") == whole["text"]
    done = events[-1][1]
    assert (done["adapter"], done["finish_reason"], done["usage"]) == ("code", "stop", whole["usage"])


async def test_a_stream_that_breaks_ends_with_an_error(listen: Listen, engine: FakeEngine) -> None:
    async with listen() as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        engine._delay_s = 0.02
        async with client.stream("POST", "/generate", json={"prompt": "x", "stream": True}) as response:
            engine.die()
            events = events_of((await response.aread()).decode())
        metrics = (await client.get("/metrics")).text
    names = [name for name, _ in events]
    assert names[-1] == "error"
    assert "done" not in names
    assert events[-1][1]["error"]["code"] == "engine_dead"
    assert 'api_requests_total{code="200",route="/generate",status="error"} 1.0' in metrics


async def test_what_fails_before_the_first_token_has_a_status(client: httpx.AsyncClient) -> None:
    response = await client.post("/generate", json={"prompt": "w " * 5000, "stream": True})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "prompt_too_long")


async def test_streaming_can_be_switched_off(serve: Serve) -> None:
    async with serve(inference={"enable_streaming": False}) as client:
        for path, body in [
            ("/generate", {"prompt": "x"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
            ("/v1/completions", {"prompt": "x"}),
        ]:
            assert (await client.post(path, json=body)).status_code == 200
            response = await client.post(path, json={**body, "stream": True})
            assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported")


async def test_the_deadline_is_the_settings(serve: Serve, engine: FakeEngine) -> None:
    async with serve(api={"timeout": 0.2}) as client:
        engine._delay_s = 30.0
        response = await client.post("/generate", json={"prompt": "x"})
        assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert response.headers["retry-after"] == "1"


async def test_a_batch_keeps_order_and_errors_apart(client: httpx.AsyncClient) -> None:
    requests = [
        {"prompt": "code"},
        {"prompt": "x", "adapter": "law"},
        {"prompt": "creative", "max_tokens": 2},
    ]
    response = await client.post("/generate/batch", json={"requests": requests})
    results = response.json()["results"]
    assert response.status_code == 200
    assert [results[0]["adapter"], results[1]["error"]["code"], results[2]["adapter"]] == [
        "code", "unknown_adapter", "creative",
    ]  # fmt: skip
    assert results[2]["usage"]["completion_tokens"] == 2
    ids = [results[0]["request_id"], results[1]["error"]["request_id"], results[2]["request_id"]]
    assert ids == [f"{response.headers['x-request-id']}-{index}" for index in range(3)]


async def test_a_batch_of_prompts_is_each_prompt_alone(client: httpx.AsyncClient) -> None:
    prompts = ["code", "creative", "neither"]
    batch = (await client.post("/generate/batch", json={"prompts": prompts, "max_tokens": 5})).json()[
        "results"
    ]
    for prompt, result in zip(prompts, batch, strict=True):
        alone = (await client.post("/generate", json={"prompt": prompt, "max_tokens": 5})).json()
        assert (result["text"], result["adapter"]) == (alone["text"], alone["adapter"])


@pytest.mark.parametrize(
    "body", [{}, {"prompts": []}, {"prompts": ["x"], "requests": [{"prompt": "x"}]}, {"prompts": ["x"] * 129}]
)
async def test_a_batch_is_one_form_or_the_other_and_bounded(
    client: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    assert (await client.post("/generate/batch", json=body)).status_code == 422


async def test_route_decides_without_generating(client: httpx.AsyncClient) -> None:
    before = (await client.get("/metrics")).text
    body = (await client.post("/route", json={"prompt": "creative, please"})).json()
    assert (body["agent"], body["version"], body["reason"]) == ("creative", CREATIVE.version, "routed")
    assert body["scores"]["creative"] == 0.9
    assert body["explanation"] == {"word": "creative"}
    after = (await client.get("/metrics")).text
    assert "lora_requests_total{" not in before + after
    short = (await client.post("/route", json={"prompt": "creative", "explain": False})).json()
    assert short["explanation"] == {}
