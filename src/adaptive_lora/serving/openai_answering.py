"""OpenAI's bodies, answered: what the routes and batches share. Knows no HTTP request.

    planned = await plan_chat(body, request_id, orchestrator, allowed=..., max_model_len=...)
    answer = await complete_chat(planned, answers, deadline=...)

Both steps raise what `Orchestrator` raises, and InvalidRequest for what the schema cannot say.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from adaptive_lora.agents.names import parse_name
from adaptive_lora.agents.orchestrator import Orchestrator
from adaptive_lora.agents.plan import Plan
from adaptive_lora.errors import AdaptiveLoraError
from adaptive_lora.serving.cache.answers import Answers
from adaptive_lora.serving.openai_tool_wire import CallStream, call_body
from adaptive_lora.serving.openai_wire import ChatStream, chat_body, completion_body
from adaptive_lora.serving.sampling import to_sampling
from adaptive_lora.serving.schemas.openai import (
    ChatBody,
    CompletionBody,
    JsonObjectFormat,
    JsonSchemaFormat,
)
from adaptive_lora.serving.tool_calls import ToolCalling, conversation, tool_calling, with_instructions
from adaptive_lora.types import GenerateRequest

DEFAULT_MAX_TOKENS: Final = 16
"""Of completions: OpenAI's own."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Who answers a body, and what the engine is asked; one of each for every prompt."""

    request_id: str
    plans: tuple[Plan, ...]
    requests: tuple[GenerateRequest, ...]
    calling: ToolCalling | None = None
    """The answer is a call of a function."""


async def plan_chat(
    body: ChatBody,
    request_id: str,
    orchestrator: Orchestrator,
    *,
    allowed: frozenset[str] | None,
    max_model_len: int,
) -> Planned:
    """One plan. `max_model_len` bounds an answer whose length the caller leaves open."""
    calling = tool_calling(body)
    prompt = conversation(body.messages)
    sampling = to_sampling(
        body,
        max_tokens=body.max_completion_tokens or body.max_tokens or max_model_len,
        n=body.n or 1,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        json_schema=_schema_of(body) if calling is None else calling.json_schema,
    )
    told = [message for message in body.messages if message.role != "tool"]
    asked = prompt if len(told) == len(body.messages) else conversation(told)  # a result asks for nothing
    plan = await orchestrator.plan(asked, parse_name(body.model), key=request_id, allowed=allowed)
    if calling is not None:
        prompt = with_instructions(prompt, calling)
    request = GenerateRequest(request_id, prompt, sampling, plan.adapter_id)
    return Planned(request_id, (plan,), (request,), calling)


async def complete_chat(planned: Planned, answers: Answers, *, deadline: float) -> dict[str, Any]:
    """OpenAI's `chat.completion`."""
    (plan,), (request,) = planned.plans, planned.requests
    choices = await answers.complete(plan, request, deadline=deadline)
    if planned.calling is None:
        return chat_body(plan, planned.request_id, choices)
    return call_body(plan, planned.request_id, choices, planned.calling)


def chat_stream(planned: Planned, *, include_usage: bool) -> ChatStream:
    """OpenAI's chunks."""
    (plan,), (request,) = planned.plans, planned.requests
    n, calling = request.sampling.n, planned.calling
    if calling is None:
        return ChatStream(plan, planned.request_id, n=n, include_usage=include_usage)
    return CallStream(plan, planned.request_id, n=n, include_usage=include_usage, calling=calling)


async def plan_completions(
    body: CompletionBody, request_id: str, orchestrator: Orchestrator, *, allowed: frozenset[str] | None
) -> Planned:
    """Each prompt is routed for itself."""
    sampling = to_sampling(
        body, max_tokens=body.max_tokens or DEFAULT_MAX_TOKENS, n=body.n or 1, logprobs=body.logprobs
    )
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    name = parse_name(body.model)
    ids = [request_id] if len(prompts) == 1 else [f"{request_id}-{index}" for index in range(len(prompts))]
    plans = [
        await orchestrator.plan(prompt, name, key=key, allowed=allowed)
        for key, prompt in zip(ids, prompts, strict=True)
    ]
    requests = [
        GenerateRequest(id_, prompt, sampling, plan.adapter_id)
        for id_, prompt, plan in zip(ids, prompts, plans, strict=True)
    ]
    return Planned(request_id, tuple(plans), tuple(requests))


async def complete_completions(planned: Planned, answers: Answers, *, deadline: float) -> dict[str, Any]:
    """OpenAI's `text_completion`. If a prompt fails, all do, with its error."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(answers.complete(plan, request, deadline=deadline))
                for plan, request in zip(planned.plans, planned.requests, strict=True)
            ]
    except* AdaptiveLoraError as failures:
        error = _first(failures)
        raise error from None
    return completion_body(planned.plans, planned.request_id, [task.result() for task in tasks])


def _schema_of(body: ChatBody) -> dict[str, Any] | None:
    match body.response_format:
        case JsonObjectFormat():
            return {}
        case JsonSchemaFormat(json_schema=spec):
            return spec.schema_
        case _:
            return None


def _first(group: BaseExceptionGroup[AdaptiveLoraError]) -> AdaptiveLoraError:
    """The first failure; the others were cancelled because of it, or failed alike."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
