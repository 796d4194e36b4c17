"""The one table from errors to HTTP statuses, and the one shape of every error body.

    {"error": {"code": ..., "message": ..., "request_id": ..., "type": ..., "param": ...}}

`type` and `param` are there for OpenAI's clients; ours need only the first three.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from adaptive_lora import errors
from adaptive_lora.errors import AdaptiveLoraError
from adaptive_lora.serving.context import context_of
from adaptive_lora.serving.quotas.headers import retry_headers

_log = logging.getLogger(__name__)

STATUS: Mapping[type[AdaptiveLoraError], int] = {
    errors.AdaptiveLoraError: 500,
    errors.InvalidRequest: 400,
    errors.InvalidName: 400,
    errors.PromptTooLong: 400,
    errors.Unsupported: 400,
    errors.NotFound: 404,
    errors.UnknownAdapter: 404,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.AdapterError: 422,
    errors.ManifestInvalid: 422,
    errors.UnsafeFile: 422,
    errors.UnsafeLink: 422,
    errors.UnsafeName: 422,
    errors.HashMismatch: 422,
    errors.UnsupportedAdapter: 422,
    errors.WrongBase: 422,
    errors.RankTooLarge: 422,
    errors.WrongModules: 422,
    errors.NonFiniteWeights: 422,
    errors.NoEffect: 422,
    errors.WorseThanBase: 422,
    errors.SourceNotAllowed: 403,
    errors.UnsafeArchive: 422,
    errors.Conflict: 409,
    errors.QuotaExceeded: 403,
    errors.StorageError: 500,
    errors.StorageUnavailable: 503,
    errors.StorageFull: 507,
    errors.RegistryUnavailable: 503,
    errors.RedisUnavailable: 503,
    errors.RateLimited: 429,
    errors.BudgetSpent: 429,
    errors.ShuttingDown: 503,
    errors.RouterError: 500,
    errors.NoCandidates: 503,
    errors.BundleError: 500,
    errors.EngineError: 500,
    errors.EngineNotReady: 503,
    errors.EngineDead: 503,
    errors.WorkerLost: 503,
    errors.Overloaded: 503,
    errors.DeadlineExceeded: 504,
    errors.RequestAborted: 503,
    errors.SettingsError: 500,
}

CHALLENGES: Mapping[int, str] = {
    401: 'Bearer realm="adaptive-lora"',
    403: 'Bearer realm="adaptive-lora", error="insufficient_scope"',
}
"""WWW-Authenticate, as RFC 6750 has it."""

RETRY_AFTER_S = 1
"""Suggested wait for what may succeed when tried again."""

_HTTP_CODES = {
    400: "invalid_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    415: "unsupported_media_type",
    421: "wrong_host",
    422: "invalid_request",
    503: "overloaded",
}
_HTTP_MESSAGES = {
    404: "there is nothing at this path; /docs lists what there is",
    405: "this path does not take this method; the Allow header lists those that it takes",
}
_OTHER_KIND = frozenset({"string_type", "list_type"})
_FIELD = re.compile(r"(?!str$)[a-z][a-z0-9_]*")
INTERNAL = "something went wrong on the server; its log has the details under this request id"


def status_of(error: AdaptiveLoraError) -> int:
    """The HTTP status; of the nearest ancestor for a class outside the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def error_fields(
    code: str, message: str, request_id: str, *, status: int, param: str | None = None
) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    if status == 429:
        kind = "rate_limit_error"
    return {
        "error": {
            "code": code,
            "message": message,
            "request_id": request_id,
            "type": kind,
            "param": param,
        }
    }


def code_of(error: BaseException) -> str:
    """What we did not raise on purpose is an internal error."""
    return error.code if isinstance(error, AdaptiveLoraError) else AdaptiveLoraError.code


def fields_of(error: BaseException, request_id: str) -> dict[str, Any]:
    """The body for any exception. What we did not raise on purpose says nothing about itself."""
    if isinstance(error, AdaptiveLoraError):
        return error_fields(error.code, error.message, request_id, status=status_of(error))
    return error_fields(AdaptiveLoraError.code, INTERNAL, request_id, status=500)


class ErrorResponse(Response):
    """Leaves its code for the request's log line."""

    def __init__(self, body: bytes, status: int, code: str, headers: Mapping[str, str]) -> None:
        super().__init__(body, status, headers, media_type="application/json")
        self._code = code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context_of(scope).error_code = self._code
        await super().__call__(scope, receive, send)


def error_response(
    status: int,
    code: str,
    message: str,
    request_id: str,
    *,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    body = msgspec.json.encode(error_fields(code, message, request_id, status=status, param=param))
    return ErrorResponse(body, status, code, dict(headers or {}))


def response_of(error: BaseException, request_id: str) -> Response:
    if not isinstance(error, AdaptiveLoraError):
        return error_response(500, AdaptiveLoraError.code, INTERNAL, request_id)
    headers = {"retry-after": str(RETRY_AFTER_S)} if error.retryable else {}
    if isinstance(error, errors.RateLimited | errors.Overloaded):
        headers = retry_headers(error)
    if isinstance(error, errors.Unauthenticated | errors.Forbidden):
        headers["www-authenticate"] = CHALLENGES[status_of(error)]
    return error_response(status_of(error), error.code, error.message, request_id, headers=headers)


def install(app: FastAPI) -> None:
    """Make every error of `app` answer in the one shape."""
    app.add_exception_handler(AdaptiveLoraError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


async def _ours(request: Request, error: Exception) -> Response:
    context = context_of(request.scope)
    response = response_of(error, context.request_id)
    if response.status_code >= 500 and isinstance(error, AdaptiveLoraError) and not error.retryable:
        _log.warning("request failed: %s", error.message, extra={"code": error.code})
    return response


async def _http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    status = error.status_code
    message = _HTTP_MESSAGES.get(status) or str(error.detail)
    if status == 400 and error.detail == "There was an error parsing the body":
        message = "the body is not valid JSON in UTF-8"
    code = _HTTP_CODES.get(status, "http_error")
    headers = {"allow": _allowed(request)} if status == 405 else error.headers
    request_id = context_of(request.scope).request_id
    return error_response(status, code, message, request_id, headers=headers)


def _allowed(request: Request) -> str:
    """The methods of every route of this path; Starlette names those of the first one only."""
    methods = {
        method
        for route in request.app.routes
        if route.matches(request.scope)[0] is not Match.NONE
        for method in getattr(route, "methods", None) or ()
    }
    return ", ".join(sorted(methods))


async def _invalid(request: Request, error: Exception) -> Response:
    """A body that the schema refuses: 422, and 400 under /v1 as OpenAI's clients expect."""
    if not isinstance(error, RequestValidationError):
        raise error
    status = 400 if request.scope["path"].startswith("/v1/") else 422
    message, param = _explain(error, request.headers.get("content-type", ""))
    request_id = context_of(request.scope).request_id
    return error_response(status, "invalid_request", message, request_id, param=param)


def body_error_fields(error: ValidationError, request_id: str) -> tuple[int, dict[str, Any]]:
    """Status and body for what the schema refuses under /v1, where no request is there to answer."""
    problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
    message, param = _explain(RequestValidationError(problems), "application/json")
    return 400, error_fields("invalid_request", message, request_id, status=400, param=param)


def _explain(error: RequestValidationError, content_type: str) -> tuple[str, str | None]:
    """The first problem in words, and the field that it is in. Never echoes the caller's values.

    Where a field takes a text or a list, pydantic reports what each of them would have needed: the complaint
    that it is not the other kind is the last to be shown.
    """
    problems = error.errors()
    problem = next((each for each in problems if each["type"] not in _OTHER_KIND), problems[0])
    if problem["type"] == "json_invalid":
        return f"the body is not valid JSON: {problem['ctx']['error']}", None
    if problem["loc"][0] == "body" and "json" not in content_type.lower():
        return "send the body as JSON, with the header Content-Type: application/json", None
    where = _where(problem["loc"][1:], whole=problem["type"] == "extra_forbidden")
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "there is no such field"
    return (f"{where}: {message}" if where else message), where


def _where(path: Sequence[int | str], *, whole: bool) -> str | None:
    """The field's path without the names of pydantic's types in it. `whole` keeps the last piece whatever it
    is: then the caller made it up, and it is shortened and kept printable."""
    last = len(path) - 1
    pieces = [
        str(part)[:64]
        for index, part in enumerate(path)
        if isinstance(part, int) or _FIELD.fullmatch(part) or (whole and index == last)
    ]
    return ".".join(pieces).encode("ascii", "backslashreplace").decode() or None
