"""POST /v1/chat/completions in OpenAI's wire format."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from adaptive_lora.errors import Unsupported
from adaptive_lora.serving.auth.guard import needs
from adaptive_lora.serving.context import context_of
from adaptive_lora.serving.openai_answering import chat_stream, complete_chat, plan_chat
from adaptive_lora.serving.routes.common import (
    ON_POST,
    allowed_to,
    answers_of,
    as_json,
    deadline_of,
    errors,
    runtime_of,
    streamed,
)
from adaptive_lora.serving.routes.direct import DirectRoute
from adaptive_lora.serving.schemas.openai import ChatBody
from adaptive_lora.serving.schemas.openai_answers import ChatAnswer
from adaptive_lora.serving.stream import open_stream

router = APIRouter(prefix="/v1", tags=["OpenAI"], dependencies=[needs("generate")], route_class=DirectRoute)


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
    deadline = deadline_of(request)
    if body.stream and not runtime.settings.inference.enable_streaming:
        raise Unsupported("streaming is switched off here (inference.enable_streaming): leave out stream")
    planned = await plan_chat(
        body,
        context.request_id,
        orchestrator,
        allowed=allowed_to(request),
        max_model_len=runtime.engine.max_model_len,
    )
    context.plans = planned.plans
    if body.stream:
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        (plan,), (wanted,) = planned.plans, planned.requests
        wire = chat_stream(planned, include_usage=include_usage)
        chunks = answers_of(request).stream(plan, wanted, deadline=deadline)
        return await open_stream(wire, chunks, context, deadline=deadline)
    return as_json(await complete_chat(planned, answers_of(request), deadline=deadline))
