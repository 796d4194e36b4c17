"""LangChain's OpenAI classes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import httpx
import openai
import pytest
from langchain_core.exceptions import ContextOverflowError, OutputParserException
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI

from adaptive_lora.engine.fake import FakeEngine
from tests.serving.clients.conftest import Order

Chat = Callable[..., ChatOpenAI]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def ping() -> str:
    """Ask for a sign of life."""
    return "pong"


@pytest.fixture
async def options(url: str) -> AsyncIterator[dict[str, Any]]:
    """For constructors. LangChain never closes what it opens itself, so it opens nothing."""
    async with httpx.AsyncClient() as http_async_client:
        with httpx.Client() as http_client:
            yield {
                "base_url": url,
                "api_key": "none",
                "max_retries": 0,
                "http_client": http_client,
                "http_async_client": http_async_client,
            }


@pytest.fixture
def chat(options: dict[str, Any]) -> Chat:
    return partial(ChatOpenAI, **options)


async def test_invoke_and_who_answered(chat: Chat) -> None:
    answer = await chat(model="auto").ainvoke("some code")
    assert answer.response_metadata["model_name"] == "code"
    assert answer.response_metadata["finish_reason"] == "stop"
    n_tokens = answer.usage_metadata
    assert n_tokens["total_tokens"] == n_tokens["input_tokens"] + n_tokens["output_tokens"] > 0
    in_a_thread = await asyncio.to_thread(chat(model="auto").invoke, "some code")
    assert in_a_thread.content == answer.content


async def test_messages_of_every_kind(chat: Chat) -> None:
    messages = [
        SystemMessage("be brief"),
        HumanMessage([{"type": "text", "text": "some "}, {"type": "text", "text": "code"}], name="ann"),
    ]
    first = await chat(model="auto").ainvoke(messages)
    again = await chat(model="auto").ainvoke([*messages, first, HumanMessage("more code")])
    assert first.response_metadata["model_name"] == again.response_metadata["model_name"] == "code"


async def test_streams_and_their_usage(chat: Chat) -> None:
    model = chat(model="code", stream_usage=True)
    whole = await model.ainvoke("hello")
    chunks = [chunk async for chunk in model.astream("hello")]
    joined = sum(chunks[1:], chunks[0])
    assert isinstance(joined, AIMessageChunk)
    assert (joined.content, joined.usage_metadata) == (whole.content, whole.usage_metadata)
    assert joined.response_metadata["model_name"] == "code"
    assert len(chunks) > 4
    assert await asyncio.to_thread(lambda: [c.content for c in model.stream("hello")]) == [
        chunk.content for chunk in chunks
    ]


async def test_batches_of_prompts(chat: Chat) -> None:
    answers = await chat(model="auto").abatch(["some code", "creative", "hello"])
    assert [a.response_metadata["model_name"] for a in answers] == ["code", "creative", "base"]


async def test_every_constructors_option(chat: Chat) -> None:
    model = chat(
        model="code", temperature=0.5, top_p=0.9, seed=1, n=2, stop=["zzz"], max_completion_tokens=5,
        presence_penalty=0.1, frequency_penalty=0.1, logprobs=True, top_logprobs=2, store=False,
        metadata={"a": "b"}, service_tier="auto", reasoning_effort="low", verbosity="low",
        extra_body={"top_k": 3}, default_headers={"X-Request-Id": "mine"},
    )  # fmt: skip
    result = await model.agenerate([[HumanMessage("hello")]])
    assert len(result.generations[0]) == 2
    content = result.generations[0][0].generation_info["logprobs"]["content"]
    assert len(content) == 5
    assert all(len(entry["top_logprobs"]) == 2 for entry in content)


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
@pytest.mark.parametrize("strict", [None, True])
async def test_structured_output(chat: Chat, method: str, strict: bool | None) -> None:
    model = chat(model="code").with_structured_output(Order, method=method, strict=strict)
    assert isinstance(await model.ainvoke("an order"), Order)
    assert isinstance(await asyncio.to_thread(model.invoke, "an order"), Order)


async def test_structured_output_is_a_schema_by_default(chat: Chat) -> None:
    model = chat(model="code").with_structured_output(Order, include_raw=True)
    answer = await model.ainvoke("an order")
    assert isinstance(answer["parsed"], Order)
    assert answer["raw"].response_metadata["model_name"] == "code"
    assert answer["parsing_error"] is None


async def test_json_mode_is_json_of_no_certain_form(chat: Chat) -> None:
    assert await chat(model="code").with_structured_output(method="json_mode").ainvoke("JSON") == {}
    with pytest.raises(OutputParserException):
        await chat(model="code").with_structured_output(Order, method="json_mode").ainvoke("JSON")


async def test_a_function_is_called_where_a_call_is_demanded(chat: Chat) -> None:
    for choice, finish in (("any", "tool_calls"), ("required", "tool_calls"), ("add", "stop")):
        bound = chat(model="code").bind_tools([add, ping], tool_choice=choice)
        answer = await bound.ainvoke("1 and 2")
        assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("add", {"a": 0, "b": 0})]
        assert answer.response_metadata["finish_reason"] == finish
        chunks = [chunk async for chunk in bound.astream("1 and 2")]
        assert sum(chunks[1:], chunks[0]).tool_calls[0]["args"] == {"a": 0, "b": 0}


async def test_a_call_its_result_and_the_answer(chat: Chat) -> None:
    model, question = chat(model="code"), HumanMessage("1 and 2")
    asked = await model.bind_tools([add, ping], tool_choice="any").ainvoke([question])
    result = ToolMessage("3", tool_call_id=asked.tool_calls[0]["id"])
    answer = await model.bind_tools([add, ping], tool_choice="none").ainvoke([question, asked, result])
    assert answer.content
    assert not answer.tool_calls


async def test_whether_to_call_is_not_left_to_the_model(chat: Chat) -> None:
    with pytest.raises(openai.BadRequestError, match="Say 'required'"):
        await chat(model="code").bind_tools([add]).ainvoke("1 and 2")


async def test_errors(chat: Chat, engine: FakeEngine) -> None:
    async def fails(kind: type[Exception], prompt: Any, **options: Any) -> None:
        with pytest.raises(kind):
            await chat(**{"model": "code", **options}).ainvoke(prompt)

    image = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}
    await fails(openai.BadRequestError, [HumanMessage([image])])
    await fails(openai.NotFoundError, "hello", model="gpt-4o")
    await fails(openai.NotFoundError, "hello", use_responses_api=True)
    await fails(ContextOverflowError, "word " * 5_000)
    engine.die()
    await fails(openai.InternalServerError, "hello")


async def test_the_completions_class(options: dict[str, Any]) -> None:
    model = OpenAI(**options, model="base", max_tokens=4)
    result = await model.agenerate(["one", "two"])
    assert len(result.generations) == 2
    assert result.llm_output["token_usage"]["completion_tokens"] == 8
    streamed = "".join([piece async for piece in model.astream("one")])
    assert streamed == result.generations[0][0].text == await asyncio.to_thread(model.invoke, "one")
