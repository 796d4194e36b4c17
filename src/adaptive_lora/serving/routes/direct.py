"""The short way to an endpoint, for routes that are asked most.

FastAPI prepares at every request what these do not use: stacks for dependencies that clean up, the media type
read as e-mail's is, arguments from six places. That is a tenth of what a gateway does for an answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.params import Security
from fastapi.routing import APIRoute
from fastapi.security import SecurityScopes
from pydantic import TypeAdapter
from starlette.responses import Response

from adaptive_lora.serving.auth.guard import guard

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class DirectRoute(APIRoute):
    """A route whose endpoint takes a JSON body and the request, behind the guard and nothing else.

    A body that fits goes straight to the endpoint. Any other request takes FastAPI's way, which says what is
    wrong with it; the document of the API is FastAPI's in any case.
    """

    def get_route_handler(self) -> Handler:
        ordinary = super().get_route_handler()
        kind, needed = TypeAdapter[Any](self._kind_of_body()), SecurityScopes(self._scopes())

        async def handle(request: Request) -> Response:
            if request.headers.get("content-type") != "application/json":
                return await ordinary(request)
            try:
                content = json.loads(await request.body())
                await guard(request, needed)
                body = kind.validate_python(content)
            except (ValueError, RecursionError):  # no JSON, or none that fits
                return await ordinary(request)
            response: Response = await self.endpoint(body, request)
            return response

        return handle

    def _kind_of_body(self) -> Any:
        """Raises TypeError if the endpoint takes anything else."""
        takes = self.dependant
        others = (takes.path_params, takes.query_params, takes.header_params, takes.cookie_params)
        if (
            self.body_field is None
            or len(takes.body_params) != 1
            or any(others)
            or takes.request_param_name is None
            or len(takes.dependencies) != len(self.dependencies)
        ):
            raise TypeError(
                f"{self.path}: what takes more than a body and the request goes FastAPI's way only"
            )
        return self.body_field.field_info.annotation

    def _scopes(self) -> list[str]:
        """Raises TypeError if the guard is not all that stands before the endpoint."""
        scopes: list[str] = []
        for each in self.dependencies:
            if not isinstance(each, Security) or each.dependency is not guard:
                raise TypeError(f"{self.path}: what depends on more than the guard goes FastAPI's way only")
            scopes += each.scopes or ()
        return scopes
