"""POST /v1/completions in OpenAI's wire format: text, continued as it stands."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from adaptive_lora.agents.names import parse_name
from adaptive_lora.errors import AdaptiveLoraError, Unsupported
from adaptive_lora.serving.auth.guard import needs
from adaptive_lora.serving.context import context_of
from adaptive_lora.serving.openai_wire import CompletionStream, completion_body
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
from adaptive_lora.serving.schemas.openai import CompletionBody
from adaptive_lora.serving.schemas.openai_answers import CompletionAnswer
from adaptive_lora.serving.stream import open_stream
from adaptive_lora.types import GenerateRequest

DEFAULT_MAX_TOKENS = 16
"""OpenAI's own."""

router = APIRouter(prefix="/v1", tags=["OpenAI"], dependencies=[needs("generate")])


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
    deadline = orchestrator.deadline()
    if body.stream and not runtime.settings.inference.enable_streaming:
        raise Unsupported("streaming is switched off here (inference.enable_streaming): leave out stream")
    sampling = to_sampling(
        body, max_tokens=body.max_tokens or DEFAULT_MAX_TOKENS, n=body.n or 1, logprobs=body.logprobs
    )
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    name = parse_name(body.model)
    whole = context.request_id
    ids = [whole] if len(prompts) == 1 else [f"{whole}-{index}" for index in range(len(prompts))]
    allowed = allowed_to(request)
    plans = [
        await orchestrator.plan(prompt, name, key=key, allowed=allowed)
        for key, prompt in zip(ids, prompts, strict=True)
    ]
    context.plans = plans
    requests = [
        GenerateRequest(request_id, prompt, sampling, plan.adapter_id)
        for request_id, prompt, plan in zip(ids, prompts, plans, strict=True)
    ]
    answers = answers_of(request)
    if body.stream:
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        wire = CompletionStream(plans[0], context.request_id, include_usage=include_usage)
        chunks = answers.stream(plans[0], requests[0], deadline=deadline)
        return await open_stream(wire, chunks, context, deadline=deadline)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(answers.complete(plan, wanted, deadline=deadline))
                for plan, wanted in zip(plans, requests, strict=True)
            ]
    except* AdaptiveLoraError as failures:
        error = _first(failures)
        raise error from None
    return as_json(completion_body(plans, context.request_id, [task.result() for task in tasks]))


def _first(group: BaseExceptionGroup[AdaptiveLoraError]) -> AdaptiveLoraError:
    """The first failure; the others were cancelled because of it, or failed alike."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
