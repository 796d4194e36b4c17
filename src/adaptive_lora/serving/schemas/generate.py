"""/generate, /generate/batch and /route."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from adaptive_lora.agents.names import AUTO
from adaptive_lora.serving import limits
from adaptive_lora.serving.schemas.common import (
    ErrorBody,
    JsonSchema,
    Name,
    PromptText,
    Sampling,
    Strict,
    UsageBody,
)
from adaptive_lora.types import Doubt, Reason

DEFAULT_MAX_TOKENS = 256


class GenerateOptions(Sampling):
    """Everything about a generation but its prompt."""

    adapter: Name = AUTO
    max_tokens: int = Field(DEFAULT_MAX_TOKENS, ge=1, le=limits.MAX_TOKENS)
    json_schema: JsonSchema | None = Field(
        None, description="the text is a JSON value that this schema accepts; `{}`: any JSON object"
    )
    raw: bool = Field(
        False,
        description="continue the prompt as it stands; otherwise it is a user's turn in the base model's "
        "chat template, if the base model has one",
    )


class GenerateItem(GenerateOptions):
    """One item of a batch."""

    prompt: PromptText


class GenerateBody(GenerateItem):
    stream: bool = Field(False, description="answer with server-sent events: start, token, done or error")


class PromptsBatch(GenerateOptions):
    """Several prompts, one set of options."""

    prompts: Annotated[list[PromptText], Field(min_length=1, max_length=limits.MAX_BATCH)]


class RequestsBatch(Strict):
    """Several requests, each with options of its own."""

    requests: Annotated[list[GenerateItem], Field(min_length=1, max_length=limits.MAX_BATCH)]


def _form(body: object) -> str:
    return "[requests]" if isinstance(body, dict) and "requests" in body else "[prompts]"


BatchBody = Annotated[
    Annotated[PromptsBatch, Tag("[prompts]")] | Annotated[RequestsBatch, Tag("[requests]")],
    Discriminator(_form),
]


class GenerateAnswer(BaseModel):
    request_id: str
    text: str
    adapter: str = Field(description="who answered: an agent, or `base`")
    version: str
    confidence: float = Field(ge=0, le=1)
    finish_reason: Literal["stop", "length"]
    usage: UsageBody
    latency_ms: float


class BatchAnswer(BaseModel):
    request_id: str
    results: list[GenerateAnswer | ErrorBody] = Field(description="in the order of the prompts")
    latency_ms: float


class RouteBody(Strict):
    prompt: PromptText
    explain: bool = True


class RouteAnswer(BaseModel):
    request_id: str
    agent: str
    version: str
    confidence: float = Field(ge=0, le=1)
    reason: Reason
    doubt: Doubt | None = Field(description="why the base answers, if it abstained")
    candidates: list[str] = Field(
        description="agents among which the right one is, with calibrated probability; most probable first"
    )
    scores: dict[str, float] = Field(description="calibrated probability per agent")
    explanation: dict[str, Any]
