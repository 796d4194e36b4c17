"""OpenAI's own client: answers that follow a schema, and calls of functions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import pydantic_function_tool
from pydantic import BaseModel

from tests.serving.clients.conftest import ADD, PING, USER, Order


class Add(BaseModel):
    a: int
    b: int


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


async def test_a_pydantic_model_is_parsed(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.parse(model="base", messages=USER, response_format=Order)
    order = answer.choices[0].message.parsed
    assert isinstance(order, Order)
    assert order.paid_by.kind == "transfer"


async def test_a_pydantic_model_is_parsed_from_a_stream(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="base", messages=USER, response_format=Order) as stream:
        parsed = [event.parsed async for event in stream if event.type == "content.delta"]
    final = (await stream.get_final_completion()).choices[0].message.parsed
    assert isinstance(final, Order)
    assert parsed[-1] == json.loads(final.model_dump_json())


async def test_any_json_object(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="base", messages=USER, response_format={"type": "json_object"}
    )
    assert json.loads(answer.choices[0].message.content) == {}


async def test_an_answer_that_was_cut_off_is_said_to_be(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        await client.chat.completions.parse(
            model="base", messages=USER, response_format=Order, max_completion_tokens=2
        )


@pytest.mark.parametrize(
    ("schema", "tells"),
    [
        ({"$ref": "https://example.org/x"}, "$ref may point only into the schema itself"),
        ({"properties": {"a": True}}, "for 'anything' write {}"),
        ({"type": "array", "minItems": 5_000}, "minItems is an integer from 0 to 1000"),
        ({"enum": ["x" * 20_000]}, "larger than 16384 bytes"),
    ],
)
async def test_a_schema_that_is_refused_says_what_to_do(
    client: openai.AsyncOpenAI, schema: dict[str, Any], tells: str
) -> None:
    spec = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="base", messages=USER, response_format=spec)
    assert tells in refused.value.message
    assert refused.value.param == "response_format.json_schema.schema"


async def test_a_named_function_is_called(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="code", messages=USER, tools=[PING, ADD],
        tool_choice={"type": "function", "function": {"name": "add"}},
    )  # fmt: skip
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("stop", None)
    (call,) = choice.message.tool_calls
    assert call.function.name == "add"
    assert json.loads(call.function.arguments) == {"a": 0, "b": 0}


async def test_a_function_is_called_where_one_is_required(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="code", messages=USER, tools=[ADD, PING], tool_choice="required", n=2, temperature=1.0
    )
    for choice in answer.choices:
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        assert choice.message.tool_calls[0].function.name == "add"
    ids = {choice.message.tool_calls[0].id for choice in answer.choices}
    assert len(ids) == 2


async def test_the_clients_own_tools_are_parsed(client: openai.AsyncOpenAI) -> None:
    tools = [pydantic_function_tool(Add), pydantic_function_tool(Order)]
    for named in ("Add", "Order"):
        answer = await client.chat.completions.parse(
            model="code", messages=USER, tools=tools,
            tool_choice={"type": "function", "function": {"name": named}},
        )  # fmt: skip
        (call,) = answer.choices[0].message.tool_calls
        assert type(call.function.parsed_arguments).__name__ == named


async def test_calls_come_in_pieces(client: openai.AsyncOpenAI) -> None:
    options = {"model": "code", "messages": USER, "tools": [ADD, PING], "tool_choice": "required"}
    whole = (await client.chat.completions.create(**options, logprobs=True)).choices[0]
    async with client.chat.completions.stream(
        **options, logprobs=True, stream_options={"include_usage": True}
    ) as stream:
        pieces = [
            event.arguments_delta
            async for event in stream
            if event.type == "tool_calls.function.arguments.delta"
        ]
    answer = await stream.get_final_completion()
    (streamed,) = answer.choices
    assert len(pieces) > 1
    assert "".join(pieces) == streamed.message.tool_calls[0].function.arguments
    assert streamed.message.tool_calls[0].function.arguments == whole.message.tool_calls[0].function.arguments
    assert streamed.finish_reason == "tool_calls"
    assert streamed.logprobs.content == whole.logprobs.content
    assert answer.usage.completion_tokens == len(whole.logprobs.content)


async def test_a_call_that_was_cut_off_before_its_name_is_none(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="code", messages=USER, tools=[ADD, PING], tool_choice="required", max_tokens=1
    )
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.tool_calls) == ("length", None)


async def test_results_of_calls_are_answered(client: openai.AsyncOpenAI) -> None:
    asked = await client.chat.completions.create(
        model="auto", messages=USER, tools=[ADD, PING], tool_choice="required"
    )
    message = asked.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "creative: 3"}
    answer = await client.chat.completions.create(
        model="auto", messages=[*USER, message, result], tools=[ADD, PING], tool_choice="none"
    )
    assert asked.model == answer.model == "code"  # a result is no question: the router does not read it
    assert answer.choices[0].message.content


@pytest.mark.parametrize(
    ("options", "param", "tells"),
    [
        ({"tools": [ADD]}, "tool_choice", "'auto', the default where tools are given, is not served"),
        ({"tools": [ADD], "tool_choice": "auto"}, "tool_choice", "Say 'required'"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        (
            {"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "sub"}}},
            "tool_choice",
            "not among the tools",
        ),
        ({"tools": [ADD, ADD], "tool_choice": "required"}, "tools", "the same name"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0.type", "'function'"),
    ],
)
async def test_tools_that_are_not_served_are_refused(
    client: openai.AsyncOpenAI, options: dict[str, Any], param: str, tells: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="code", messages=USER, **options)
    assert refused.value.param == param
    assert tells in refused.value.message


async def test_a_result_without_a_call_is_refused(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="answers no call"):
        await client.chat.completions.create(
            model="code", messages=[*USER, {"role": "tool", "tool_call_id": "x", "content": "3"}]
        )
