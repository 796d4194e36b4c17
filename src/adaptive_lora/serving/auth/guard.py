"""What a caller may do: each route says which scope it needs, and the guard asks on the route that matched.

Never on the path or the URL, which a request can write in many ways (CVE-2026-48710): a route without a scope
is open, and a test lists those.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from fastapi import FastAPI, Request, Security
from fastapi.openapi.models import HTTPBearer as BearerModel
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase

from adaptive_lora.errors import Forbidden, Unauthenticated
from adaptive_lora.serving.context import context_of
from adaptive_lora.serving.principal import Principal

NO_CREDENTIALS = "send an API key or a token: Authorization: Bearer ..."


class Guard(SecurityBase):
    """Lets through whom the authentication has recognised, if its scopes reach."""

    def __init__(self) -> None:
        self.scheme_name = "bearer"
        self.model = BearerModel(
            bearerFormat="JWT or API key", description="an API key (`alk_...`), or a JSON Web Token"
        )

    async def __call__(self, request: Request, needed: SecurityScopes) -> None:
        """Raises Unauthenticated, Forbidden, RegistryUnavailable."""
        principal = principal_of(request.scope)
        for scope in needed.scopes:
            if not principal.has(scope):
                raise Forbidden(f"this needs the scope {scope!r}, which your credential does not have")


guard = Guard()


def without_security(app: FastAPI) -> None:
    """The document of an application that asks nobody who calls says so."""
    documented = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = documented()
            schema.get("components", {}).pop("securitySchemes", None)
            for operations in schema["paths"].values():
                for operation in operations.values():
                    operation.pop("security", None)
        return documented()

    app.openapi = openapi  # type: ignore[method-assign]


def needs(scope: str) -> Any:
    """The dependency of a route, or of a whole router, that asks for `scope`."""
    return Security(guard, scopes=[scope])


def principal_of(scope: MutableMapping[str, Any]) -> Principal:
    """Who makes this request. Raises what authentication has found wrong with it."""
    context = context_of(scope)
    if context.refusal is not None:
        raise context.refusal
    if context.principal is None:
        raise Unauthenticated(NO_CREDENTIALS)
    return context.principal
