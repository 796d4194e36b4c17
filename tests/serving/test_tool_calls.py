"""Calls that are generated as text, and what the model is told of functions."""

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.errors import InvalidRequest
from adaptive_lora.serving.openai_tool_wire import CallReader
from adaptive_lora.serving.schemas.openai import ChatBody
from adaptive_lora.serving.tool_calls import ToolCalling, conversation, tool_calling, with_instructions
from adaptive_lora.types import ChatMessage
from tests.serving.clients.conftest import ADD, PING, Order

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\{}[], é\n'),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('"}{\\', max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)
layouts = st.sampled_from([{"separators": (",", ":")}, {}, {"indent": 2}])


def body_of(**options: Any) -> ChatBody:
    return ChatBody.model_validate({"messages": [{"role": "user", "content": "hello"}], **options})


def calling_of(**options: Any) -> ToolCalling:
    calling = tool_calling(body_of(**options))
    assert calling is not None
    return calling


@given(st.dictionaries(st.text(max_size=3), values, max_size=3), layouts, st.data())
def test_a_call_is_read_whatever_pieces_it_comes_in(
    arguments: dict[str, Any], layout: dict[str, Any], data: st.DataObject
) -> None:
    text = json.dumps({"name": "f-1_a", "parameters": arguments}, **layout)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    reader = CallReader(None)
    read = "".join(
        reader.feed(text[start:end]) for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)
    )
    assert (reader.name, json.loads(read)) == ("f-1_a", arguments)
    assert reader.feed("\n}") == ""


def test_a_call_that_is_cut_off_is_read_as_far_as_it_goes() -> None:
    text = '{"name":"f","parameters":{"a":{"b":"}"}}}'
    begin = text.index(":{") + 1
    for end in range(len(text) + 1):
        reader = CallReader(None)
        assert reader.feed(text[:end]) == text[begin : min(end, len(text) - 1)]
        assert reader.name == ("f" if end > begin else None)


def test_the_arguments_of_an_only_function_are_all_there_is() -> None:
    reader = CallReader("f")
    assert [reader.feed(piece) for piece in ('{"a"', ":1}")] == ['{"a"', ":1}"]


def test_references_of_each_functions_schema_are_its_own() -> None:
    order = {"type": "function", "function": {"name": "order", "parameters": Order.model_json_schema()}}
    schema = calling_of(tools=[order, ADD], tool_choice="required").json_schema
    jsonschema.Draft202012Validator.check_schema(schema)
    item = {"name": "nail", "amount": 1, "unit": "kg", "part_of": {"name": "x", "amount": 1, "unit": "kg"}}
    arguments = {"number": 1, "items": [item], "paid_by": {"kind": "card", "number": "1234"}}
    jsonschema.validate({"name": "order", "parameters": arguments}, schema)
    jsonschema.validate({"name": "add", "parameters": {"a": 1, "b": 2}}, schema)
    item["part_of"] = {"name": "x", "amount": 1, "unit": "ton"}
    for name, refused in (("order", arguments), ("add", arguments), ("ping", {})):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"name": name, "parameters": refused}, schema)


def test_the_engines_grammar_takes_references_as_they_are_moved() -> None:
    import xgrammar

    order = {"type": "function", "function": {"name": "order", "parameters": Order.model_json_schema()}}
    schema = calling_of(tools=[ADD, order], tool_choice="required").json_schema
    compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo(["x", "end"], stop_token_ids=[1]))
    grammar = compiler.compile_json_schema(json.dumps(schema), any_whitespace=False, separators=(",", ":"))

    def accepts(arguments: dict[str, Any]) -> bool:
        call = {"name": "order", "parameters": arguments}
        return bool(xgrammar.GrammarMatcher(grammar).accept_string(json.dumps(call, separators=(",", ":"))))

    inner = {"name": "x", "amount": 1.5, "unit": "kg"}
    good = {"number": 1, "items": [inner | {"part_of": inner}], "paid_by": {"kind": "transfer"}}
    assert accepts(good)
    assert not accepts(good | {"paid_by": {"kind": "cash"}})
    assert not accepts(good | {"items": [inner | {"part_of": inner | {"unit": "ton"}}]})


def test_of_an_only_function_the_schema_is_its_own() -> None:
    named = {"type": "function", "function": {"name": "add"}}
    assert calling_of(tools=[ADD, PING], tool_choice=named).json_schema == ADD["function"]["parameters"]
    bare = {"type": "function", "function": {"name": "f"}}
    schema = calling_of(tools=[bare], tool_choice="required").json_schema
    jsonschema.validate({}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"a": 1}, schema)


def test_functions_that_are_too_large_together_are_refused() -> None:
    def large(name: str) -> dict[str, Any]:
        properties = {f"p{i}": {"type": "string", "title": "x" * 100} for i in range(80)}
        return {"type": "function", "function": {"name": name, "parameters": {"properties": properties}}}

    assert calling_of(tools=[large("f")], tool_choice="required").json_schema
    with pytest.raises(InvalidRequest, match=r"the tools together: .* larger"):
        _ = calling_of(tools=[large("f"), large("g")], tool_choice="required").json_schema


def test_the_model_reads_what_the_functions_are_before_the_first_question() -> None:
    calling = calling_of(tools=[ADD, PING], tool_choice="required")
    turns = (
        ChatMessage("system", "be brief"),
        ChatMessage("user", "one"),
        ChatMessage("assistant", "1"),
        ChatMessage("user", "two"),
    )
    system, first, *others = with_instructions(turns, calling)
    assert (system, *others) == (turns[0], *turns[2:])
    assert first.content.endswith("\n\none")
    described = [json.loads(line) for line in first.content.splitlines()[1:3]]
    assert described == [ADD["function"], PING["function"]]
    assert with_instructions(turns[:1], calling)[1:] == (ChatMessage("user", calling.instructions),)


def test_descriptions_count_as_what_is_said() -> None:
    wordy = [
        {"type": "function", "function": {"name": f"f{i}", "description": "x" * 4_000}} for i in range(40)
    ]
    with pytest.raises(InvalidRequest, match="128000 characters"):
        with_instructions((ChatMessage("user", "hello"),), calling_of(tools=wordy, tool_choice="required"))


def test_earlier_calls_and_their_results_are_turns_of_text() -> None:
    def call(id_: str, name: str) -> dict[str, Any]:
        return {"id": id_, "type": "function", "function": {"name": name, "arguments": '{"a": 1}'}}

    body = body_of(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": "how much?"},
            {"role": "assistant", "content": None, "tool_calls": [call("1", "add"), call("2", "ping")]},
            {"role": "tool", "tool_call_id": "1", "content": "3"},
            {"role": "tool", "tool_call_id": "2", "content": [{"type": "text", "text": "pong"}]},
            {"role": "assistant", "content": "3"},
        ]
    )
    assert conversation(body.messages) == (
        ChatMessage("system", "be brief"),
        ChatMessage("user", "how much?"),
        ChatMessage(
            "assistant", '{"name": "add", "parameters": {"a": 1}}\n{"name": "ping", "parameters": {"a": 1}}'
        ),
        ChatMessage("user", "add returned:\n3\nping returned:\npong"),
        ChatMessage("assistant", "3"),
    )
