"""One line of a batch, answered as its endpoint would answer it."""

from __future__ import annotations

import json
import logging
import uuid
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from adaptive_lora.batches.records import Endpoint, Result
from adaptive_lora.errors import (
    AdaptiveLoraError,
    BudgetSpent,
    DeadlineExceeded,
    EngineDead,
    EngineError,
    EngineNotReady,
    InvalidRequest,
    Overloaded,
    RateLimited,
    RegistryUnavailable,
    ShuttingDown,
    Unsupported,
)
from adaptive_lora.serving.batches.callers import Caller
from adaptive_lora.serving.batches.lines import Line
from adaptive_lora.serving.cache.answers import CachePolicy
from adaptive_lora.serving.errors import body_error_fields, fields_of, status_of
from adaptive_lora.serving.openai_answering import (
    complete_chat,
    complete_completions,
    plan_chat,
    plan_completions,
)
from adaptive_lora.serving.runtime import Runtime
from adaptive_lora.serving.schemas.openai import ChatBody, CompletionBody
from adaptive_lora.telemetry.logging import request_id_var

_log = logging.getLogger(__name__)

MAX_TRIES: Final = 5
"""Of a request that the engine fails at; for the engine, or for room, it waits as long as the batch may."""

_encode = msgspec.json.encode
_LATER = (
    RateLimited,
    Overloaded,
    EngineNotReady,
    EngineDead,
    ShuttingDown,
    RegistryUnavailable,
    DeadlineExceeded,
)
"""The last: its deadline is the batch's, which ends by itself."""


class TryLater(Exception):
    """Nothing is wrong with the request. `counts`: the engine has tried, and tries no more than MAX_TRIES
    times."""

    def __init__(self, error: AdaptiveLoraError, *, counts: bool) -> None:
        super().__init__(error.message)
        self.error = error
        self.counts = counts


@dataclass(frozen=True, slots=True)
class Answering:
    """What answers the lines of one batch."""

    runtime: Runtime
    caller: Caller
    endpoint: Endpoint

    async def answer(self, line: Line, index: int, *, deadline: float, is_last_try: bool = False) -> Result:
        """Raises TryLater for what may succeed when tried again; all else becomes the line's result."""
        request_id = f"req-{uuid.uuid4().hex}"
        request_id_var.set(request_id)  # of this task alone
        try:
            answer = await self._answer(bytes(line.body), request_id, deadline)
        except ValidationError as error:
            status, body = body_error_fields(error, request_id)
            return _result(line, index, request_id, status, body)
        except AdaptiveLoraError as error:
            if isinstance(error, _LATER) and not isinstance(error, BudgetSpent):
                raise TryLater(error, counts=False) from error
            if isinstance(error, EngineError) and not is_last_try:
                raise TryLater(error, counts=True) from error
            return _result(line, index, request_id, status_of(error), fields_of(error, request_id))
        except Exception as error:
            _log.exception("a request of a batch failed")
            return _result(line, index, request_id, 500, fields_of(error, request_id))
        return _result(line, index, request_id, 200, answer)

    async def _answer(self, content: bytes, request_id: str, deadline: float) -> dict[str, Any]:
        chat = self.endpoint == "/v1/chat/completions"
        body = _parsed(content, ChatBody if chat else CompletionBody)
        if body.stream:
            raise Unsupported("a batch has no streams: leave out stream")
        runtime, principal = self.runtime, self.caller.principal
        orchestrator, allowed = runtime.orchestrator, principal.agents
        limiter = runtime.limiter
        grant = None if limiter is None else limiter.grant(principal, self.caller.address)
        answers = runtime.answers(
            principal.tenant, CachePolicy("refresh"), [], grant, tier=principal.tier, priority="batch"
        )
        if grant is not None:
            await grant.enter()
        try:
            if isinstance(body, ChatBody):
                length = runtime.engine.max_model_len
                planned = await plan_chat(
                    body, request_id, orchestrator, allowed=allowed, max_model_len=length
                )
                return await complete_chat(planned, answers, deadline=deadline)
            planned = await plan_completions(body, request_id, orchestrator, allowed=allowed)
            return await complete_completions(planned, answers, deadline=deadline)
        finally:
            if grant is not None:
                grant.leave()


def not_answered(line: Line, code: str, message: str) -> str:
    """The line of the error file for a request that was not tried to its end."""
    return _written(line, None, {"code": code, "message": message})


def _parsed(content: bytes, kind: type[ChatBody] | type[CompletionBody]) -> ChatBody | CompletionBody:
    """As FastAPI reads a body. Raises ValidationError, InvalidRequest."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise InvalidRequest("the body is not valid JSON in UTF-8") from None
    return kind.model_validate(value)


def _result(line: Line, index: int, request_id: str, status: int, body: dict[str, Any]) -> Result:
    response = {"status_code": status, "request_id": request_id, "body": body}
    usage = body.get("usage") or {}
    return Result(
        index,
        _written(line, response, None),
        is_error=status != 200,
        n_input_tokens=usage.get("prompt_tokens", 0),
        n_output_tokens=usage.get("completion_tokens", 0),
    )


def _written(line: Line, response: dict[str, Any] | None, error: dict[str, Any] | None) -> str:
    fields = {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": line.custom_id,
        "response": response,
        "error": error,
    }
    return _encode(fields).decode()
