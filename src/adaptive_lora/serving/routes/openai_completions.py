"""POST /v1/completions in OpenAI's wire format: text, continued as it stands."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from adaptive_lora.errors import Unsupported
from adaptive_lora.serving.auth.guard import needs
from adaptive_lora.serving.context import context_of
from adaptive_lora.serving.openai_answering import complete_completions, plan_completions
from adaptive_lora.serving.openai_wire import CompletionStream
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
from adaptive_lora.serving.schemas.openai import CompletionBody
from adaptive_lora.serving.schemas.openai_answers import CompletionAnswer
from adaptive_lora.serving.stream import open_stream

router = APIRouter(prefix="/v1", tags=["OpenAI"], dependencies=[needs("generate")], route_class=DirectRoute)


@router.post(
    "/completions",
    response_model=CompletionAnswer,
    responses=errors(*ON_POST) | streamed("The answer, or with `stream` its chunks, then `[DONE]`"),
)
async def completions(body: CompletionBody, request: Request) -> Response:
    """Continue one text, or each of several. Each prompt is routed for itself."""
    runtime = runtime_of(request)
    context = context_of(request.scope)
    orchestrator = runtime.orchestrator
    deadline = deadline_of(request)
    if body.stream and not runtime.settings.inference.enable_streaming:
        raise Unsupported("streaming is switched off here (inference.enable_streaming): leave out stream")
    planned = await plan_completions(body, context.request_id, orchestrator, allowed=allowed_to(request))
    context.plans = planned.plans
    answers = answers_of(request)
    if body.stream:
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        (plan,), (wanted,) = planned.plans, planned.requests
        wire = CompletionStream(plan, context.request_id, include_usage=include_usage)
        chunks = answers.stream(plan, wanted, deadline=deadline)
        return await open_stream(wire, chunks, context, deadline=deadline)
    return as_json(await complete_completions(planned, answers, deadline=deadline))
