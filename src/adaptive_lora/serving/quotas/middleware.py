"""Limits every request before anything of it is read but the headers."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adaptive_lora.errors import RateLimited
from adaptive_lora.serving.addresses import ClientAddresses
from adaptive_lora.serving.context import context_of
from adaptive_lora.serving.errors import response_of
from adaptive_lora.serving.middleware import PROBES
from adaptive_lora.serving.principal import ANYBODY
from adaptive_lora.serving.quotas.limiter import Limiter


class RateLimits:
    """Inside authentication, whose principal it limits; nobody in particular is limited by address. Puts the
    grant into the request's context. Without a limiter it does nothing."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        limiter: Limiter | None,
        addresses: ClientAddresses,
        probes: frozenset[str] = PROBES,
    ) -> None:
        self._app = app
        self._probes = probes
        self._limiter = limiter
        self._addresses = addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._limiter is None or scope["path"] in self._probes:
            await self._app(scope, receive, send)
            return
        context = context_of(scope)
        grant = self._limiter.grant(context.principal or ANYBODY, self._addresses.of(scope))
        context.grant = grant
        try:
            await grant.enter()
        except RateLimited as error:
            await response_of(error, context.request_id)(scope, receive, send)
            return

        async def send_and_leave(message: Message) -> None:
            """The place is free before the caller can know: its next request may go to another gateway."""
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                grant.leave()
            await send(message)

        try:
            await self._app(scope, receive, send_and_leave if grant.has_place else send)
        finally:
            grant.leave()
