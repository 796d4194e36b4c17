"""The official client against a real server on a socket."""

from collections.abc import AsyncIterator

import httpx
import openai
import pytest

from adaptive_lora.engine.fake import FakeEngine
from tests.serving.conftest import Listen

USER = [{"role": "user", "content": "some code"}]


@pytest.fixture
async def client(listen: Listen) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        listen(api={"max_body_bytes": 200_000}) as port,
        openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client,
    ):
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


async def test_parsed_structured_output(client: openai.AsyncOpenAI) -> None:
    from pydantic import BaseModel

    class Order(BaseModel):
        number: int
        city: str

    answer = await client.chat.completions.parse(model="base", messages=USER, response_format=Order)
    assert answer.choices[0].message.parsed == Order(number=0, city="")


async def test_completions_and_models(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="base", prompt=["one", "two"], max_tokens=3, logprobs=1)
    assert len(answer.choices) == 2
    assert len(answer.choices[0].logprobs.tokens) == 3
    models = await client.models.list()
    assert {"auto", "base", "code"} <= {model.id for model in models.data}
    assert (await client.models.retrieve("code")).id == "code"


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
    engine.die()
    assert isinstance(await fails(), openai.InternalServerError)
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("law")
    with pytest.raises(openai.NotFoundError):
        await client.embeddings.create(model="base", input="x")


async def test_a_stream_that_breaks_raises(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine._delay_s = 0.02
    stream = await client.chat.completions.create(model="base", messages=USER, stream=True)
    engine.die()
    with pytest.raises(openai.APIError, match="process is gone"):
        async for _ in stream:
            pass


async def test_the_synchronous_client_works_too(listen: Listen) -> None:
    import asyncio

    def session(port: int) -> str | None:
        url = f"http://127.0.0.1:{port}/v1"
        with openai.OpenAI(base_url=url, api_key="none", http_client=httpx.Client()) as client:
            answer = client.chat.completions.create(model="code", messages=USER)
            return answer.choices[0].message.content

    async with listen() as port:
        assert await asyncio.to_thread(session, port)
