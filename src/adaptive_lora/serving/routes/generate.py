"""POST /generate, /generate/batch and /route: our own endpoints."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from adaptive_lora.agents.names import Auto, parse_name
from adaptive_lora.agents.orchestrator import Orchestrator
from adaptive_lora.agents.plan import Plan
from adaptive_lora.errors import AdaptiveLoraError, InvalidRequest, Unsupported
from adaptive_lora.serving.auth.guard import needs
from adaptive_lora.serving.cache.answers import Answers
from adaptive_lora.serving.context import RequestContext, context_of
from adaptive_lora.serving.errors import fields_of
from adaptive_lora.serving.openai_wire import usage_fields
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
from adaptive_lora.serving.sampling import as_prompt, to_sampling
from adaptive_lora.serving.schemas.generate import (
    BatchAnswer,
    BatchBody,
    GenerateAnswer,
    GenerateBody,
    GenerateOptions,
    PromptsBatch,
    RouteAnswer,
    RouteBody,
)
from adaptive_lora.serving.stream import open_stream, sse
from adaptive_lora.telemetry.logging import request_id_var
from adaptive_lora.types import GenerateRequest, Prompt, TokenChunk, Usage

router = APIRouter(tags=["generate"], dependencies=[needs("generate")], route_class=DirectRoute)


@router.post(
    "/generate",
    response_model=GenerateAnswer,
    responses=errors(*ON_POST)
    | streamed("The answer, or with `stream` its events: start, token, done or error"),
)
async def generate(body: GenerateBody, request: Request) -> Response:
    """Answer one prompt with the agent that suits it, or the one named in `adapter`."""
    runtime = runtime_of(request)
    context = context_of(request.scope)
    orchestrator = runtime.orchestrator
    deadline = deadline_of(request)
    allowed = allowed_to(request)
    if not body.stream:
        return as_json(
            await _answer(
                body,
                body.prompt,
                context.request_id,
                orchestrator,
                answers_of(request),
                deadline,
                allowed,
                context,
            )
        )
    if not runtime.settings.inference.enable_streaming:
        raise Unsupported("streaming is switched off here (inference.enable_streaming): leave out stream")
    prompt = as_prompt(body.prompt, raw=body.raw)
    plan = await orchestrator.plan(prompt, parse_name(body.adapter), key=context.request_id, allowed=allowed)
    context.plans = (plan,)
    wanted = _request(context.request_id, prompt, body, plan)
    chunks = answers_of(request).stream(plan, wanted, deadline=deadline)
    return await open_stream(_Events(plan, context), chunks, context, deadline=deadline)


@router.post("/generate/batch", response_model=BatchAnswer, responses=errors(*ON_POST))
async def generate_batch(body: BatchBody, request: Request) -> Response:
    """Answer many prompts at once. Results keep the order; an item that fails has its error in its place."""
    items: Sequence[tuple[GenerateOptions, str]] = (
        [(body, prompt) for prompt in body.prompts]
        if isinstance(body, PromptsBatch)
        else [(item, item.prompt) for item in body.requests]
    )
    context = context_of(request.scope)
    return as_json(
        {
            "request_id": context.request_id,
            "results": await generate_all(items, request),
            "latency_ms": _since(context.started),
        }
    )


async def generate_all(
    items: Sequence[tuple[GenerateOptions, str]], request: Request
) -> list[dict[str, Any]]:
    """The answer to each prompt with its options, in order; an item that fails has its error in its place."""
    context = context_of(request.scope)
    orchestrator = runtime_of(request).orchestrator
    answers = answers_of(request, results=[])  # many items, which end in any order: not in a header
    deadline = deadline_of(request)
    allowed = allowed_to(request)

    async def one(index: int, options: GenerateOptions, prompt: str) -> dict[str, Any]:
        request_id = f"{context.request_id}-{index}"
        request_id_var.set(request_id)  # of this task alone
        try:
            return await _answer(options, prompt, request_id, orchestrator, answers, deadline, allowed)
        except AdaptiveLoraError as error:
            return fields_of(error, request_id)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(index, *item)) for index, item in enumerate(items)]
    return [task.result() for task in tasks]


@router.post("/route", response_model=RouteAnswer, responses=errors(*ON_POST))
async def route(body: RouteBody, request: Request) -> Response:
    """Say who would answer, and why, without generating."""
    context = context_of(request.scope)
    orchestrator = runtime_of(request).orchestrator
    plan = await orchestrator.plan(
        body.prompt, Auto(), key=context.request_id, explain=body.explain, allowed=allowed_to(request)
    )
    context.plans = (plan,)
    decision = plan.decision
    return as_json(
        {
            "request_id": context.request_id,
            "agent": plan.agent,
            "version": plan.version,
            "confidence": decision.confidence,
            "reason": decision.reason,
            "doubt": decision.doubt,
            "candidates": list(decision.candidates),
            "scores": dict(decision.scores),
            "explanation": dict(decision.explanation),
        }
    )


async def _answer(
    options: GenerateOptions,
    text: str,
    request_id: str,
    orchestrator: Orchestrator,
    answers: Answers,
    deadline: float,
    allowed: frozenset[str] | None,
    context: RequestContext | None = None,
) -> dict[str, Any]:
    started = time.perf_counter()
    prompt = as_prompt(text, raw=options.raw)
    plan = await orchestrator.plan(prompt, parse_name(options.adapter), key=request_id, allowed=allowed)
    if context is not None:
        context.plans = (plan,)
    request = _request(request_id, prompt, options, plan)
    (completion,) = await answers.complete(plan, request, deadline=deadline)
    return {
        "request_id": request_id,
        "text": completion.text,
        "adapter": plan.agent,
        "version": plan.version,
        "confidence": plan.decision.confidence,
        "finish_reason": completion.finish_reason,
        "usage": usage_fields(completion.usage),
        "latency_ms": _since(started),
    }


def _request(request_id: str, prompt: Prompt, options: GenerateOptions, plan: Plan) -> GenerateRequest:
    sampling = to_sampling(options, max_tokens=options.max_tokens, json_schema=options.json_schema)
    return GenerateRequest(request_id, prompt, sampling, plan.adapter_id)


def _since(started: float) -> float:
    """Milliseconds, to the hundredth."""
    return round((time.perf_counter() - started) * 1000, 2)


class _Events:
    """The stream of /generate: start, token ..., then done or error."""

    def __init__(self, plan: Plan, context: RequestContext) -> None:
        self._plan = plan
        self._context = context
        self._last: TokenChunk | None = None
        self._n_tokens = 0

    def _who(self) -> dict[str, Any]:
        return {
            "request_id": self._context.request_id,
            "adapter": self._plan.agent,
            "version": self._plan.version,
            "confidence": self._plan.decision.confidence,
        }

    def begin(self) -> bytes:
        return sse("start", self._who())

    def chunk(self, chunk: TokenChunk) -> bytes:
        self._last = chunk
        self._n_tokens += chunk.n_tokens
        return sse("token", {"text": chunk.text}) if chunk.text else b""

    def end(self) -> bytes:
        if self._last is None:
            raise InvalidRequest("a stream ended before it began")
        usage = usage_fields(Usage(self._last.n_prompt_tokens, self._n_tokens))
        done = {
            "finish_reason": self._last.finish_reason,
            "usage": usage,
            "latency_ms": _since(self._context.started),
        }
        return sse("done", self._who() | done)

    def error(self, error: BaseException) -> bytes:
        return sse("error", fields_of(error, self._context.request_id))
