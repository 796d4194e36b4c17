"""OpenAI's own client: chats, completions, streams, models, and its exceptions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from adaptive_lora.engine.fake import FakeEngine
from tests.serving.auth.signing import SECRET, token
from tests.serving.clients.conftest import USER
from tests.serving.conftest import CODE, Listen, until


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


async def test_chat(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="auto", messages=USER, max_tokens=5)
    assert answer.model == "code"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5
    assert answer.adaptive_lora["agent"] == "code"


async def test_a_streamed_chat_is_the_same_text(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model="creative", messages=USER)
    stream = await client.chat.completions.create(
        model="creative", messages=USER, stream=True, stream_options={"include_usage": True}
    )
    text, usage, n_chunks = "", None, 0
    async for chunk in stream:
        n_chunks += 1
        assert chunk.model == "creative"
        usage = chunk.usage or usage
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert usage == whole.usage
    assert n_chunks > 4


async def test_the_clients_own_stream_helper(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="code", messages=USER) as stream:
        kinds = [event.type async for event in stream]
    whole = await client.chat.completions.create(model="code", messages=USER)
    assert {"chunk", "content.delta", "content.done"} == set(kinds)
    assert (await stream.get_final_completion()).choices[0].message.content == whole.choices[
        0
    ].message.content


async def test_how_to_sample(client: openai.AsyncOpenAI) -> None:
    async def ask(**options: Any) -> openai.types.chat.ChatCompletion:
        return await client.chat.completions.create(model="code", messages=USER, **options)

    sampled = [await ask(n=2, temperature=1.0, seed=3, logprobs=True, top_logprobs=2) for _ in range(2)]
    assert sampled[0].choices == sampled[1].choices
    first, second = sampled[0].choices
    assert first.message != second.message
    assert "".join(entry.token for entry in first.logprobs.content) == first.message.content
    assert all(len(entry.top_logprobs) == 2 for entry in first.logprobs.content)
    word = (await ask()).choices[0].message.content.split()[3]
    stopped = (await ask(stop=[word])).choices[0]
    assert word not in stopped.message.content
    assert stopped.finish_reason == "stop"
    assert (await ask(max_completion_tokens=2)).usage.completion_tokens == 2
    beyond = await ask(extra_body={"ignore_eos": True, "top_k": 5}, max_tokens=40)
    assert beyond.usage.completion_tokens == 40


async def test_what_cannot_change_the_answer_is_ignored(client: openai.AsyncOpenAI) -> None:
    plain = await client.chat.completions.create(model="code", messages=USER)
    dressed = await client.chat.completions.create(
        model="code", messages=USER, user="u", metadata={"a": "b"}, store=True, service_tier="auto",
        parallel_tool_calls=False, reasoning_effort="low", verbosity="low", prompt_cache_key="k",
        prompt_cache_retention="24h", safety_identifier="s", modalities=["text"], tools=[],
        tool_choice="none",
        prediction={"type": "content", "content": "x"}, response_format={"type": "text"},
    )  # fmt: skip
    assert dressed.choices == plain.choices


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"audio": {"format": "wav", "voice": "alloy"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities.1"),
        ({"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
        ({"extra_body": {"chat_template": "x"}}, "chat_template"),
    ],
)
async def test_what_could_change_it_and_is_not_served_is_refused(
    client: openai.AsyncOpenAI, options: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="code", messages=USER, **options)
    assert refused.value.param == param


async def test_every_kind_of_message_of_text(client: openai.AsyncOpenAI) -> None:
    first = await client.chat.completions.create(model="code", messages=USER)
    answer = await client.chat.completions.create(
        model="auto",
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "name": "ann", "content": [{"type": "text", "text": "creative, please"}]},
            first.choices[0].message,
            first.choices[0].message.model_dump(),
            {"role": "user", "content": "now code"},
        ],
    )
    assert answer.model == "code"


@pytest.mark.parametrize(
    ("part", "tells"),
    [
        ({"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}, "images (image_url)"),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "audio (input_audio)"),
        ({"type": "file", "file": {"file_id": "f"}}, "files (file)"),
    ],
)
async def test_parts_that_are_not_text_are_refused_by_name(
    client: openai.AsyncOpenAI, part: dict[str, Any], tells: str
) -> None:
    content = [{"type": "text", "text": "what is this?"}, part]
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="code", messages=[{"role": "user", "content": content}])
    assert refused.value.param == "messages.0.content.1.type"
    assert f"{tells} are not served: send text" in refused.value.message


async def test_completions_and_models(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="base", prompt=["one", "two"], max_tokens=3, logprobs=1)
    assert len(answer.choices) == 2
    assert len(answer.choices[0].logprobs.tokens) == 3
    stream = await client.completions.create(model="base", prompt="one", max_tokens=3, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == answer.choices[0].text
    async for model in client.models.list():
        assert await client.models.retrieve(model.id) == model
    assert (await client.models.retrieve(CODE.id)).parent == "code"


async def test_errors_raise_the_clients_own_exceptions(
    client: openai.AsyncOpenAI, engine: FakeEngine
) -> None:
    async def fails(**options: object) -> openai.APIStatusError:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(**{"model": "auto", "messages": USER, **options})
        return caught.value

    unknown = await fails(model="gpt-4o")
    assert isinstance(unknown, openai.NotFoundError)
    assert (unknown.code, unknown.type) == ("unknown_adapter", "invalid_request_error")
    assert unknown.request_id == unknown.body["request_id"]
    invalid = await fails(temperature=9)
    assert isinstance(invalid, openai.BadRequestError)
    assert invalid.param == "temperature"
    refused = await fails(tools=[{"type": "function", "function": {"name": "f"}}])
    assert isinstance(refused, openai.BadRequestError)
    assert refused.param == "tool_choice"
    large = await fails(messages=[{"role": "user", "content": "x" * 300_000}])
    assert large.status_code == 413
    assert large.code == "body_too_large"
    long = await fails(messages=[{"role": "user", "content": "word " * 5_000}])
    assert (long.status_code, long.code) == (400, "prompt_too_long")
    engine.die()
    assert isinstance(await fails(), openai.InternalServerError)


async def test_what_is_not_there_is_not_found(client: openai.AsyncOpenAI) -> None:
    for wanted in (
        client.models.retrieve("law"),
        client.models.retrieve("meta-llama/Llama-3"),
        client.embeddings.create(model="base", input="x"),
        client.responses.create(model="base", input="x"),
        client.images.generate(prompt="x"),
        client.moderations.create(input="x"),
        client.chat.completions.retrieve("chatcmpl-1"),
        client.fine_tuning.jobs.list(),
    ):
        with pytest.raises(openai.NotFoundError) as missing:
            await wanted
        assert missing.value.code in ("not_found", "unknown_adapter")
        assert missing.value.request_id == missing.value.body["request_id"]


async def test_credentials_are_the_api_key(listen: Listen) -> None:
    weak = token(scope="adapters:read")
    async with listen(auth={"enabled": True, "jwt_secret": SECRET}) as port:
        url = f"http://127.0.0.1:{port}/v1"
        for key, kind, code in (
            ("wrong", openai.AuthenticationError, "unauthenticated"),
            (weak, openai.PermissionDeniedError, "forbidden"),
        ):
            async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
                with pytest.raises(kind) as refused:
                    await client.chat.completions.create(model="code", messages=USER)
                assert refused.value.code == code
        async with openai.AsyncOpenAI(base_url=url, api_key=token()) as client:
            assert (await client.chat.completions.create(model="code", messages=USER)).model == "code"


async def test_headers_and_the_requests_id(client: openai.AsyncOpenAI) -> None:
    mine = client.with_options(default_headers={"X-Request-Id": "mine-1"})
    raw = await mine.chat.completions.with_raw_response.create(model="auto", messages=USER)
    answer = raw.parse()
    assert raw.headers["x-client-request-id"] == "mine-1"
    assert raw.headers["x-adaptive-lora-agent"] == "code"
    assert answer._request_id == raw.request_id == answer.adaptive_lora["request_id"]


async def test_a_client_that_waits_no_longer_frees_the_engine(
    client: openai.AsyncOpenAI, engine: FakeEngine
) -> None:
    engine._delay_s = 30
    with pytest.raises(openai.APITimeoutError):
        await client.with_options(timeout=0.5).chat.completions.create(model="code", messages=USER)
    await until(lambda: engine._running == 0 and not len(engine._in_flight))


async def test_a_stream_that_breaks_raises(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine._delay_s = 0.02
    stream = await client.chat.completions.create(model="base", messages=USER, stream=True)
    engine.die()
    with pytest.raises(openai.APIError, match="process is gone"):
        async for _ in stream:
            pass


async def test_the_synchronous_client_works_too(url: str) -> None:
    def session() -> tuple[str, str]:
        with openai.OpenAI(base_url=url, api_key="none") as client:
            whole = client.chat.completions.create(model="code", messages=USER)
            stream = client.chat.completions.create(model="code", messages=USER, stream=True)
            pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
            assert {model.id for model in client.models.list()} >= {"auto", "base", "code"}
            return str(whole.choices[0].message.content), "".join(pieces)

    whole, streamed = await asyncio.to_thread(session)
    assert whole
    assert streamed == whole
