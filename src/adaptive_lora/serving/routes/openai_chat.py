"""POST /v1/chat/completions in OpenAI's wire format."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from adaptive_lora.agents.names import parse_name
from adaptive_lora.errors import Unsupported
from adaptive_lora.serving.auth.guard import needs
from adaptive_lora.serving.context import context_of
from adaptive_lora.serving.openai_wire import ChatStream, chat_body
from adaptive_lora.serving.routes.common import (
    ON_POST,
    allowed_to,
    answers_of,
    as_json,
    errors,
    runtime_of,
    streamed,
)
from adaptive_lora.serving.sampling import to_sampling
from adaptive_lora.serving.schemas.openai import ChatBody, JsonObjectFormat, JsonSchemaFormat, Message
from adaptive_lora.serving.schemas.openai_answers import ChatAnswer
from adaptive_lora.serving.stream import open_stream
from adaptive_lora.types import ChatMessage, GenerateRequest

router = APIRouter(prefix="/v1", tags=["OpenAI"], dependencies=[needs("generate")])


@router.post(
    "/chat/completions",
    response_model=ChatAnswer,
    responses=errors(*ON_POST) | streamed("The answer, or with `stream` its chunks, then `[DONE]`"),
)
async def chat_completions(body: ChatBody, request: Request) -> Response:
    """Continue a conversation. `model` is whom to ask; the router reads the last user turn."""
    runtime = runtime_of(request)
    context = context_of(request.scope)
    orchestrator = runtime.orchestrator
    deadline = orchestrator.deadline()
    if body.stream and not runtime.settings.inference.enable_streaming:
        raise Unsupported("streaming is switched off here (inference.enable_streaming): leave out stream")
    prompt = tuple(_turn(message) for message in body.messages)
    n = body.n or 1
    sampling = to_sampling(
        body,
        max_tokens=body.max_completion_tokens or body.max_tokens or runtime.engine.max_model_len,
        n=n,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        json_schema=_schema_of(body),
    )
    plan = await orchestrator.plan(
        prompt, parse_name(body.model), key=context.request_id, allowed=allowed_to(request)
    )
    context.plans = (plan,)
    wanted = GenerateRequest(context.request_id, prompt, sampling, plan.adapter_id)
    if body.stream:
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        wire = ChatStream(plan, context.request_id, n=n, include_usage=include_usage)
        chunks = answers_of(request).stream(plan, wanted, deadline=deadline)
        return await open_stream(wire, chunks, context, deadline=deadline)
    choices = await answers_of(request).complete(plan, wanted, deadline=deadline)
    return as_json(chat_body(plan, context.request_id, choices))


def _turn(message: Message) -> ChatMessage:
    role = "system" if message.role == "developer" else message.role
    return ChatMessage(role, message.text)


def _schema_of(body: ChatBody) -> dict[str, Any] | None:
    match body.response_format:
        case JsonObjectFormat():
            return {}
        case JsonSchemaFormat(json_schema=spec):
            return spec.schema_
        case _:
            return None
