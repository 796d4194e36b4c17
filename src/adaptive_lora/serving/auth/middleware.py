"""Recognises the caller before anything of its request is read but the headers."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from adaptive_lora.errors import RegistryUnavailable, Unauthenticated
from adaptive_lora.serving.addresses import ClientAddresses
from adaptive_lora.serving.auth.attempts import Attempts
from adaptive_lora.serving.auth.gate import Gate
from adaptive_lora.serving.auth.guard import NO_CREDENTIALS
from adaptive_lora.serving.context import context_of
from adaptive_lora.serving.errors import response_of
from adaptive_lora.serving.principal import ANYBODY, Principal

_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")


class Authentication:
    """Puts the principal into the request's context; what it may do, the matched route says (guard.py).

    Whoever is not recognised and sends a body is refused before it is read: no route that takes one is open.
    An address from which too much comes that proves nothing is told to wait.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        gate: Gate | None,
        attempts: Attempts | None = None,
        addresses: ClientAddresses | None = None,
        anybody: Principal = ANYBODY,
    ) -> None:
        """Without a gate everybody is `anybody`. Without `attempts` they may fail as often as they like."""
        self._app = app
        self._gate = gate
        self._anybody = anybody
        self._attempts = attempts
        self._addresses = addresses or ClientAddresses()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            context = context_of(scope)
            if self._gate is None:
                context.principal = self._anybody
            else:
                try:
                    context.principal = self._gate.identify(scope["headers"])
                except RegistryUnavailable as error:
                    context.refusal = error
                except Unauthenticated as error:
                    context.refusal = error
                    if self._attempts is not None:
                        context.refusal = await self._attempts.failed(self._addresses.of(scope)) or error
                if context.principal is None and scope["method"] not in _WITHOUT_BODY:
                    refusal = context.refusal or Unauthenticated(NO_CREDENTIALS)
                    await response_of(refusal, context.request_id)(scope, receive, send)
                    return
        await self._app(scope, receive, send)
