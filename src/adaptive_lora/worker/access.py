"""Every route of a worker demands the API key. vLLM's own check covers some prefixes and leaves out others
that generate (`/invocations`) or read prompts (`/tokenize`)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = frozenset({"/health", "/ping", "/metrics"})
"""For probes and Prometheus; they take no input and tell no prompt."""


class KeyRequired:
    """ASGI middleware: 401 unless the request carries one of `keys` as a bearer token."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in OPEN_PATHS or self._may(Headers(scope=scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            answer = Response(b'{"error":"Unauthorized"}', 401, media_type="application/json")
            await answer(scope, receive, send)

    def _may(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = _digest(key)
        known = [hmac.compare_digest(given, digest) for digest in self._keys]  # all: time tells nothing
        return scheme.lower() == "bearer" and any(known)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
