"""OpenAI's requests: chat completions and completions.

Every documented field of OpenAI's reference is known here. What we serve is typed; what could change the
answer and is not served is refused by name (`Refused`); what cannot change the answer is accepted and ignored
(`Ignored`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from adaptive_lora.agents.names import AUTO
from adaptive_lora.serving import limits
from adaptive_lora.serving.schemas.common import JsonSchema, Name, PromptText, Sampling, Strict, Text
from adaptive_lora.serving.schemas.openai_tools import CallId, ToolCall, ToolChoice, Tools, check_choice


def _refuse(value: object) -> None:
    if value not in (None, [], {}, "none"):
        raise ValueError("is not served here: leave it out")


Refused = Annotated[
    Any, AfterValidator(_refuse), Field(default=None, description="Not served: refused unless empty.")
]
Ignored = Annotated[Any, Field(default=None, description="Accepted and ignored.")]
Prompts = PromptText | Annotated[list[PromptText], Field(min_length=1, max_length=limits.MAX_BATCH)]
MaxTokens = Annotated[int, Field(ge=1, le=limits.MAX_TOKENS)]


_NOT_TEXT = {
    "image_url": "images",
    "input_audio": "audio",
    "file": "files",
    "refusal": "refusals",
}


def _is_text(kind: object) -> object:
    if isinstance(kind, str) and kind in _NOT_TEXT:
        raise ValueError(f"{_NOT_TEXT[kind]} ({kind}) are not served: send text")
    return kind


class TextPart(Strict):
    type: Annotated[Literal["text"], BeforeValidator(_is_text)]
    text: Annotated[Text, StringConstraints(max_length=limits.MAX_PROMPT_CHARS)]


class Message(Strict):
    """One turn, text only. `developer` is read as `system`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: (
        Annotated[Text, StringConstraints(max_length=limits.MAX_PROMPT_CHARS)]
        | Annotated[list[TextPart], Field(min_length=1, max_length=limits.MAX_MESSAGES)]
        | None
    ) = Field(None, description="may be null beside tool_calls only")
    tool_calls: Annotated[list[ToolCall], Field(max_length=limits.MAX_TOOLS)] | None = Field(
        None, description="an assistant's earlier calls"
    )
    tool_call_id: CallId | None = Field(None, description="of a tool's message: the call that it answers")
    name: Ignored
    annotations: Ignored
    refusal: Refused
    function_call: Refused
    audio: Refused

    @property
    def text(self) -> str:
        if self.content is None:
            return ""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)

    @property
    def calls(self) -> list[ToolCall]:
        return self.tool_calls or []

    @property
    def n_chars(self) -> int:
        return len(self.text) + sum(len(call.function.arguments) for call in self.calls)

    @model_validator(mode="after")
    def _fits_its_role(self) -> Message:
        if self.content is None and not self.calls:
            raise ValueError("content is missing")
        if self.calls and self.role != "assistant":
            raise ValueError("tool_calls are an assistant's")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("tool_call_id is what a tool's message has, and no other")
        return self


class TextFormat(Strict):
    type: Literal["text"]


class JsonObjectFormat(Strict):
    type: Literal["json_object"]


class JsonSchemaSpec(Strict):
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Ignored
    schema_: JsonSchema = Field(alias="schema")
    strict: bool | None = Field(None, description="the answer follows the schema in any case")


class JsonSchemaFormat(Strict):
    type: Literal["json_schema"]
    json_schema: JsonSchemaSpec


def _format_tag(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"={kind}" if isinstance(kind, str) else None


# The tags have a sign that no field's name has, which keeps them out of what errors say of the place.
ResponseFormat = Annotated[
    Annotated[TextFormat, Tag("=text")]
    | Annotated[JsonObjectFormat, Tag("=json_object")]
    | Annotated[JsonSchemaFormat, Tag("=json_schema")],
    Discriminator(
        _format_tag,
        custom_error_type="response_format",
        custom_error_message="type is text, json_object or json_schema",
    ),
]


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(None, description="Accepted and ignored.")


class OpenAIBody(Sampling):
    """What both endpoints share."""

    model: Name = AUTO
    n: int | None = Field(None, ge=1, le=limits.MAX_N)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logit_bias: Refused
    user: Ignored

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> OpenAIBody:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options may be given only with stream: true")
        return self


class ChatBody(OpenAIBody):
    messages: Annotated[list[Message], Field(min_length=1, max_length=limits.MAX_MESSAGES)]
    max_completion_tokens: MaxTokens | None = Field(
        None, description="default: what the context has room for"
    )
    max_tokens: MaxTokens | None = Field(None, description="older name of max_completion_tokens")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=limits.MAX_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None

    tools: Tools | None = None
    tool_choice: ToolChoice | None = Field(
        None, validate_default=True, description="`required`, a function, or `none`; `auto` is not served"
    )
    functions: Refused
    function_call: Refused
    audio: Refused
    web_search_options: Refused
    moderation: Refused
    modalities: list[Literal["text"]] | None = None

    metadata: Ignored
    parallel_tool_calls: Ignored
    prediction: Ignored
    prompt_cache_key: Ignored
    prompt_cache_options: Ignored
    prompt_cache_retention: Ignored
    reasoning_effort: Ignored
    safety_identifier: Ignored
    service_tier: Ignored
    store: Ignored
    verbosity: Ignored

    @field_validator("tool_choice")
    @classmethod
    def _choice_is_served(cls, choice: ToolChoice | None, info: ValidationInfo) -> ToolChoice | None:
        return check_choice(choice, info.data["tools"] or []) if "tools" in info.data else choice

    @model_validator(mode="after")
    def _fits_together(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("give max_completion_tokens or max_tokens, not both")
        if sum(message.n_chars for message in self.messages) > limits.MAX_CONVERSATION_CHARS:
            raise ValueError(f"the messages have more than {limits.MAX_CONVERSATION_CHARS} characters in all")
        known: set[str] = set()
        for index, message in enumerate(self.messages):
            if message.tool_call_id is not None and message.tool_call_id not in known:
                raise ValueError(f"messages.{index}.tool_call_id answers no call of a message before it")
            known.update(call.id for call in message.calls)
        return self


class CompletionBody(OpenAIBody):
    prompt: Prompts = Field(
        description="one text or a list of texts, continued as they stand; lists of token ids are not served"
    )
    max_tokens: MaxTokens | None = Field(None, description="default: 16, as OpenAI's")
    logprobs: int | None = Field(None, ge=0, le=limits.MAX_COMPLETION_LOGPROBS)
    echo: bool | None = Field(None, description="true is not served")
    best_of: int | None = Field(None, ge=1, le=1, description="more than 1 is not served")
    suffix: Refused

    @model_validator(mode="after")
    def _fits_together(self) -> CompletionBody:
        if self.echo:
            raise ValueError("echo is not served: leave it out")
        n_prompts = 1 if isinstance(self.prompt, str) else len(self.prompt)
        if n_prompts * (self.n or 1) > limits.MAX_CHOICES:
            raise ValueError(f"prompts times n is more than {limits.MAX_CHOICES}")
        if self.stream and n_prompts > 1:
            raise ValueError("a stream answers one prompt: send one request for each, or stream: false")
        return self
