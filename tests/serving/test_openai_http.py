import json
from typing import Any

import httpx
import pytest

from adaptive_lora.engine.fake import FakeEngine
from tests.serving.conftest import CODE, CREATIVE, Listen

USER = [{"role": "user", "content": "some code"}]
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


def data_of(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]


async def chat(client: httpx.AsyncClient, **options: Any) -> dict[str, Any]:
    response = await client.post(CHAT, json={"messages": USER, **options})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_model_is_who_answered(client: httpx.AsyncClient) -> None:
    body = await chat(client, model="auto")
    assert body["model"] == "code"
    assert body["adaptive_lora"]["version"] == CODE.version
    assert body["adaptive_lora"]["confidence"] == 0.9
    assert (await chat(client, model="base"))["model"] == "base"


async def test_only_the_last_user_turn_is_routed(client: httpx.AsyncClient) -> None:
    turns = [
        {"role": "developer", "content": "creative"},
        {"role": "user", "content": "creative"},
        {"role": "assistant", "content": "creative"},
        {"role": "user", "content": [{"type": "text", "text": "now "}, {"type": "text", "text": "code"}]},
    ]
    assert (await chat(client, messages=turns))["model"] == "code"


async def test_choices_logprobs_and_usage(client: httpx.AsyncClient) -> None:
    body = await chat(client, n=2, temperature=1.0, seed=3, logprobs=True, top_logprobs=2, max_tokens=4)
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["usage"]["completion_tokens"] == 8
    for choice in body["choices"]:
        content = choice["logprobs"]["content"]
        assert "".join(entry["token"] for entry in content) == choice["message"]["content"]
        assert all(bytes(entry["bytes"]).decode() == entry["token"] for entry in content)
        assert all(len(entry["top_logprobs"]) == 2 for entry in content)
        assert choice["finish_reason"] == "length"


async def test_without_max_tokens_the_context_is_the_limit(client: httpx.AsyncClient) -> None:
    body = await chat(client, ignore_eos=True)
    assert body["usage"]["total_tokens"] == 4096
    assert body["choices"][0]["finish_reason"] == "length"


async def test_structured_output(client: httpx.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    spec = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": schema}}
    body = await chat(client, response_format=spec)
    assert json.loads(body["choices"][0]["message"]["content"]) == {"city": ""}
    body = await chat(client, response_format={"type": "json_object"})
    assert json.loads(body["choices"][0]["message"]["content"]) == {}


@pytest.mark.parametrize(
    ("options", "tells"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0.type"),
        ({"functions": [{"name": "f"}]}, "functions: is not served"),
        ({"tool_choice": "required"}, "tool_choice: there are no tools"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"web_search_options": {"x": 1}}, "web_search_options"),
        ({"n": 17}, "n:"),
        ({"n": 2, "temperature": 0}, "greedy"),
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "20"),
        ({"stop": ["a"] * 17}, "16"),
        ({"stream_options": {"include_usage": True}}, "stream"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "not both"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user"}]}, "content is missing"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content.0.type: images (image_url) are not served",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "audio (input_audio)"),
        ({"chat_template": "{{ x }}"}, "chat_template: there is no such field"),
        (
            {"response_format": {"type": "grammar"}},
            "response_format: type is text, json_object or json_schema",
        ),
        ({"response_format": {}}, "response_format: type is"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
    ],
)  # fmt: skip
async def test_what_is_not_served_is_refused_by_name(
    client: httpx.AsyncClient, options: dict[str, Any], tells: str
) -> None:
    response = await client.post(CHAT, json={"messages": USER, **options})
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert tells in error["message"]


async def test_what_changes_nothing_is_ignored(client: httpx.AsyncClient) -> None:
    plain = await chat(client)
    dressed = await chat(
        client, user="u", metadata={"a": "b"}, store=False, service_tier="auto", tools=[], tool_choice="none",
        parallel_tool_calls=True, reasoning_effort="low", prediction=None, modalities=["text"],
    )  # fmt: skip
    assert dressed["choices"] == plain["choices"]


async def test_a_stream_has_role_text_finish_usage_and_done(client: httpx.AsyncClient) -> None:
    options = {"n": 2, "temperature": 1.0, "seed": 5, "logprobs": True}
    whole = await chat(client, **options)
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    response = await client.post(CHAT, json={"messages": USER, **options, **stream})
    *chunks, done = data_of(response.text)
    assert done == "[DONE]"
    bodies = [json.loads(chunk) for chunk in chunks]
    assert {body["model"] for body in bodies} == {"code"}
    assert len({body["id"] for body in bodies}) == 1
    assert bodies[-1]["choices"] == []
    assert bodies[-1]["usage"] == whole["usage"]
    assert all(body["usage"] is None for body in bodies[:-1])
    for index, choice in enumerate(whole["choices"]):
        mine = [body["choices"][0] for body in bodies[:-1] if body["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(c["delta"].get("content", "") for c in mine) == choice["message"]["content"]
        assert [c["finish_reason"] for c in mine if c["finish_reason"]] == ["stop"]
        logprobs = [entry for c in mine if c["logprobs"] for entry in c["logprobs"]["content"]]
        assert logprobs == choice["logprobs"]["content"]


async def test_a_broken_stream_has_an_error_and_no_done(listen: Listen, engine: FakeEngine) -> None:
    async with listen() as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        engine._delay_s = 0.02
        body = {"messages": USER, "stream": True}
        async with client.stream("POST", CHAT, json=body) as response:
            engine.die()
            text = (await response.aread()).decode()
    assert "[DONE]" not in text
    assert text.rstrip().split("\n\n")[-1].startswith("event: error\ndata: ")
    assert json.loads(data_of(text)[-1])["error"]["code"] == "engine_dead"


async def test_completions_answer_each_prompt_in_a_block(client: httpx.AsyncClient) -> None:
    prompts = ["code", "creative"]
    body = (await client.post(TEXT, json={"prompt": prompts, "n": 2, "temperature": 1.0, "seed": 1})).json()
    assert body["model"] == "auto"
    assert [answer["agent"] for answer in body["adaptive_lora"]["answers"]] == prompts
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    alone = (
        await client.post(TEXT, json={"prompt": "creative", "n": 2, "temperature": 1.0, "seed": 1})
    ).json()
    assert [c["text"] for c in body["choices"][2:]] == [c["text"] for c in alone["choices"]]
    assert alone["model"] == "creative"


async def test_completions_logprobs_have_offsets(client: httpx.AsyncClient) -> None:
    body = {"prompt": "x", "logprobs": 2, "max_tokens": 5}
    choice = (await client.post(TEXT, json=body)).json()["choices"][0]
    logprobs = choice["logprobs"]
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert choice["text"][offset:].startswith(token)
    streamed = data_of((await client.post(TEXT, json={**body, "stream": True})).text)
    chunks = [json.loads(chunk)["choices"][0] for chunk in streamed[:-1]]
    assert streamed[-1] == "[DONE]"
    assert "".join(chunk["text"] for chunk in chunks) == choice["text"]
    assert [offset for chunk in chunks for offset in chunk["logprobs"]["text_offset"]] == logprobs[
        "text_offset"
    ]
    assert chunks[-1]["finish_reason"] == "length"


async def test_completions_default_to_16_tokens(client: httpx.AsyncClient) -> None:
    body = (await client.post(TEXT, json={"prompt": "x", "ignore_eos": True})).json()
    assert body["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": [1, 2, 3]}, {"prompt": [[1, 2], [3]]}, {"prompt": []}, {"suffix": "x"}, {"echo": True},
        {"best_of": 2}, {"prompt": ["x"] * 65, "n": 2}, {"prompt": ["x", "y"], "stream": True},
        {"logprobs": 6},
    ],
)  # fmt: skip
async def test_completions_refuse_what_they_do_not_serve(
    client: httpx.AsyncClient, options: dict[str, Any]
) -> None:
    response = await client.post(TEXT, json={"prompt": "x", **options})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")


async def test_a_failed_prompt_fails_the_completion_with_its_own_error(client: httpx.AsyncClient) -> None:
    response = await client.post(TEXT, json={"prompt": ["x", "w " * 5000]})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "prompt_too_long")


async def test_models_are_every_name_that_may_be_asked_for(client: httpx.AsyncClient) -> None:
    body = (await client.get("/v1/models")).json()
    ids = [model["id"] for model in body["data"]]
    assert ids == [
        "auto", "base", "code", "creative", "code@prod", "creative@prod", CODE.id, CREATIVE.id,
    ]  # fmt: skip
    for name in ids:
        assert (await client.get(f"/v1/models/{name}")).json()["id"] == name
        assert (await chat(client, model=name))["model"] in ("base", "code", "creative")
    assert (await client.get("/v1/models/law")).status_code == 404
