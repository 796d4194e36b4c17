"""OpenAI's answers, for the OpenAPI document; the bodies themselves are written by
`serving/openai_wire.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from adaptive_lora.serving.schemas.common import UsageBody


class Answered(BaseModel):
    """Who answered, and how sure the router was. One entry per prompt in `answers` where there are
    several."""

    request_id: str
    agent: str
    version: str
    confidence: float = Field(ge=0, le=1)


class AnsweredAll(BaseModel):
    request_id: str
    answers: list[Answered]


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobBody(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprobBody]
    refusal: None


class AnsweredCall(BaseModel):
    name: str
    arguments: str = Field(description="JSON")


class AnsweredToolCall(BaseModel):
    id: str
    type: Literal["function"]
    function: AnsweredCall


class AssistantMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None = Field(description="null beside tool_calls")
    refusal: None
    tool_calls: list[AnsweredToolCall] | None = Field(None, description="one, where tool_choice demands it")


class ChatChoice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatAnswer(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str = Field(description="who answered")
    choices: list[ChatChoice]
    usage: UsageBody
    adaptive_lora: Answered


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class CompletionAnswer(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str = Field(description="who answered; `auto` where several did")
    choices: list[CompletionChoice]
    usage: UsageBody
    adaptive_lora: Answered | AnsweredAll
