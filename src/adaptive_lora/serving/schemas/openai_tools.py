"""OpenAI's tools: what a caller may declare, demand, and tell of earlier calls."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from adaptive_lora.serving import limits
from adaptive_lora.serving.schemas.common import JsonSchema, Strict, Text

FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
CallId = Annotated[Text, StringConstraints(min_length=1, max_length=limits.MAX_CALL_ID_CHARS)]


class Function(Strict):
    name: FunctionName
    description: Annotated[Text, StringConstraints(max_length=limits.MAX_DESCRIPTION_CHARS)] | None = None
    parameters: JsonSchema | None = Field(None, description="JSON schema of an object; default: no arguments")
    strict: bool | None = Field(None, description="the arguments follow the schema in any case")


class Tool(Strict):
    type: Literal["function"]
    function: Function


def _check_tools(tools: list[Tool]) -> list[Tool]:
    names = [tool.function.name for tool in tools]
    if len(set(names)) < len(names):
        raise ValueError("two functions have the same name")
    return tools


Tools = Annotated[list[Tool], Field(max_length=limits.MAX_TOOLS), AfterValidator(_check_tools)]


class NamedFunction(Strict):
    name: FunctionName


class NamedTool(Strict):
    """This function and no other."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool


def check_choice(choice: ToolChoice | None, tools: list[Tool]) -> ToolChoice | None:
    """Returns the choice as it is. Raises ValueError if it does not go with the tools, or leaves it to the
    model whether to call one."""
    if tools and choice in (None, "auto"):
        raise ValueError(
            "'auto', the default where tools are given, is not served: adapters answer in the form that they "
            "were trained for, so whether one calls a function cannot be told from its text. Say 'required', "
            "name a function, or say 'none'"
        )
    if not tools and choice not in (None, "auto", "none"):
        raise ValueError("there are no tools to choose from")
    if isinstance(choice, NamedTool) and all(choice.function.name != tool.function.name for tool in tools):
        raise ValueError("names a function that is not among the tools")
    return choice


class CalledFunction(Strict):
    name: FunctionName
    arguments: Annotated[Text, StringConstraints(max_length=limits.MAX_PROMPT_CHARS)] = Field(
        description="JSON, as the model wrote it"
    )


class ToolCall(Strict):
    """An earlier call, in an assistant's message."""

    id: CallId
    type: Literal["function"]
    function: CalledFunction
