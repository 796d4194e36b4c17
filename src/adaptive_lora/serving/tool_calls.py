"""Function calls by structured output: any model can make one, since the grammar leaves it no choice.

A call of one of several functions is generated as `{"name": ..., "parameters": ...}`; of a single one, its
arguments alone are. What the functions are for stands in the prompt, in front of the first user turn, where
Llama's own template has it too: every chat template has a user turn, not every one a system turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from adaptive_lora.errors import InvalidRequest
from adaptive_lora.serving import limits
from adaptive_lora.serving.schemas.json_schema import check_json_schema
from adaptive_lora.serving.schemas.openai import ChatBody, Message
from adaptive_lora.serving.schemas.openai_tools import Function, NamedTool
from adaptive_lora.types import ChatMessage

NO_ARGUMENTS: Final = {"type": "object", "properties": {}, "additionalProperties": False}

_ONE: Final = "Answer with the arguments of a call of this function, as JSON:"
_SEVERAL: Final = 'Answer by calling one function, as {"name": ..., "parameters": ...}:'


@dataclass(frozen=True, slots=True)
class ToolCalling:
    """The functions of which a request is answered with one call."""

    functions: tuple[Function, ...]
    named: bool
    """The caller named the function, instead of demanding just any call."""

    @property
    def only(self) -> str | None:
        """The function's name, if there is but one."""
        return self.functions[0].name if len(self.functions) == 1 else None

    @property
    def json_schema(self) -> dict[str, Any]:
        """Of what is generated. Raises InvalidRequest if all functions together are too large."""
        if self.only is not None:
            return _parameters(self.functions[0])
        schema = {
            "anyOf": [_call(function.name) for function in self.functions],
            "$defs": {f.name: _moved(_parameters(f), f"#/$defs/{f.name}") for f in self.functions},
        }
        try:
            return check_json_schema(schema)
        except ValueError as error:
            raise InvalidRequest(f"the tools together: {error}") from error

    @property
    def instructions(self) -> str:
        lines = [_ONE if self.only is not None else _SEVERAL]
        for function in self.functions:
            about = {"name": function.name, "description": function.description}
            known = {key: value for key, value in about.items() if value is not None}
            lines.append(_json(known | {"parameters": _parameters(function)}))
        return "\n".join(lines)


def tool_calling(body: ChatBody) -> ToolCalling | None:
    """What the caller demands; None if the answer is to be text."""
    functions = tuple(tool.function for tool in body.tools or ())
    match body.tool_choice:
        case NamedTool(function=named):
            return ToolCalling(tuple(f for f in functions if f.name == named.name), named=True)
        case "required":
            return ToolCalling(functions, named=False)
        case _:
            return None


def conversation(messages: Iterable[Message]) -> tuple[ChatMessage, ...]:
    """Messages as turns that every chat template knows: earlier calls as the text that makes them, and their
    results as a user's turn."""
    turns: list[ChatMessage] = []
    called: dict[str, str] = {}
    results: list[str] = []
    for message in messages:
        if message.tool_call_id is not None:
            results.append(f"{called[message.tool_call_id]} returned:\n{message.text}")
            continue
        if results:
            turns.append(ChatMessage("user", "\n".join(results)))
            results = []
        called |= {call.id: call.function.name for call in message.calls}
        turns.append(_turn(message))
    if results:
        turns.append(ChatMessage("user", "\n".join(results)))
    return tuple(turns)


def with_instructions(turns: Sequence[ChatMessage], calling: ToolCalling) -> tuple[ChatMessage, ...]:
    """The turns, the first user's of which begins with what the functions are. Raises InvalidRequest if that
    is too long."""
    text = calling.instructions
    if len(text) + sum(len(turn.content) for turn in turns) > limits.MAX_CONVERSATION_CHARS:
        raise InvalidRequest(
            f"messages and tools have more than {limits.MAX_CONVERSATION_CHARS} characters in all"
        )
    at = next((index for index, turn in enumerate(turns) if turn.role == "user"), None)
    if at is None:
        return (*turns, ChatMessage("user", text))
    return (*turns[:at], ChatMessage("user", f"{text}\n\n{turns[at].content}"), *turns[at + 1 :])


def _turn(message: Message) -> ChatMessage:
    calls = [
        f'{{"name": {_json(call.function.name)}, "parameters": {call.function.arguments}}}'
        for call in message.calls
    ]
    match message.role:
        case "developer":
            return ChatMessage("system", message.text)
        case "system" | "user" | "assistant" as role:
            return ChatMessage(role, "\n".join(([message.text] if message.text else []) + calls))
        case "tool":
            raise ValueError("a tool's message is no turn of its own")


def _parameters(function: Function) -> dict[str, Any]:
    return NO_ARGUMENTS if function.parameters is None else function.parameters


def _call(name: str) -> dict[str, Any]:
    """The schema of a call of this function, whose arguments' own is among `$defs`. The order is the
    grammar's: the name first."""
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "parameters": {"$ref": f"#/$defs/{name}"}},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _moved(schema: Any, root: str) -> Any:
    """The schema with its references as they must be when its root stands at `root` of another."""
    match schema:
        case Mapping():
            return {
                key: root + value[1:] if key == "$ref" and isinstance(value, str) else _moved(value, root)
                for key, value in schema.items()
            }
        case list():
            return [_moved(item, root) for item in schema]
        case _:
            return schema


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
