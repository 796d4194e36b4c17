"""HTTP to one worker: what a connection can do wrong, as one exception."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from adaptive_lora.engine.remote.discovery import Address
from adaptive_lora.errors import AdaptiveLoraError
from adaptive_lora.settings import WorkersSettings

CONNECT_TIMEOUT_S = 5.0
KEEPALIVE_S = 2.0
"""Shorter than the 5 s after which vLLM's server closes an idle connection: else some requests would meet
it."""
MAX_BODY_BYTES = 64 << 20
MAX_CONTROL_CONNECTIONS = 16


class WorkerFailed(Exception):
    """The worker did not do what a healthy one does. Stays inside this package.

    `error`: what the worker itself said, if it said something. `refused`: there is no process. `blameless`:
    it is healthy and has too much to do.
    """

    def __init__(
        self,
        reason: str,
        error: AdaptiveLoraError | None = None,
        *,
        refused: bool = False,
        blameless: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.error = error
        self.refused = refused
        self.blameless = blameless


class Transport:
    """Connections to one worker. Health checks have some of their own: they must not queue behind
    requests."""

    def __init__(self, address: Address, settings: WorkersSettings) -> None:
        self.url = address.url
        key = settings.api_key
        options: dict[str, Any] = {
            "base_url": address.url,
            "headers": {
                "accept-encoding": "identity",
                **({"authorization": f"Bearer {key.get_secret_value()}"} if key else {}),
                **({"host": f"{address.host}:{httpx.URL(address.url).port}"} if address.host else {}),
            },
            "trust_env": False,  # no proxy between us and our workers, no .netrc
            "follow_redirects": False,
            "verify": _verification(settings) if address.url.startswith("https:") else False,
        }
        self._extensions = {"sni_hostname": address.host} if address.host else {}
        self._requests = httpx.AsyncClient(**options, limits=_limits(settings.max_connections))
        self._control = httpx.AsyncClient(**options, limits=_limits(MAX_CONTROL_CONNECTIONS))

    async def call(
        self, method: str, path: str, content: bytes | None = None, *, timeout_s: float
    ) -> tuple[int, bytes]:
        """Status and body. Raises WorkerFailed if there is no answer within `timeout_s`."""
        request = self._request(self._control, method, path, content, timeout_s)
        try:
            response = await self._control.send(request)
        except httpx.TransportError as error:
            raise _failed(error) from error
        return response.status_code, response.content

    @asynccontextmanager
    async def stream(self, path: str, content: bytes) -> AsyncIterator[httpx.Response]:
        """POST and read the answer as it comes; leaving closes the connection, which aborts the request
        there.

        Reading has no time limit of its own. Raises WorkerFailed, also while the body is read.
        """
        request = self._request(self._requests, "POST", path, content, None)
        try:
            response = await self._requests.send(request, stream=True)
            try:
                yield response
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            raise _failed(error) from error

    async def close(self) -> None:
        await self._requests.aclose()
        await self._control.aclose()

    def _request(
        self,
        client: httpx.AsyncClient,
        method: str,
        path: str,
        content: bytes | None,
        timeout_s: float | None,
    ) -> httpx.Request:
        return client.build_request(
            method,
            path,
            content=content,
            headers={"content-type": "application/json"} if content is not None else None,
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S, pool=CONNECT_TIMEOUT_S),
            extensions=self._extensions,
        )


async def read_body(response: httpx.Response) -> bytes:
    """A whole body, as far as anybody should send one. Raises WorkerFailed for more."""
    body = b""
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise WorkerFailed("it answers without end")
    return body


def _limits(n: int) -> httpx.Limits:
    return httpx.Limits(max_connections=n, max_keepalive_connections=n, keepalive_expiry=KEEPALIVE_S)


def _verification(settings: WorkersSettings) -> ssl.SSLContext | bool:
    if not settings.tls_verify:
        return False
    return ssl.create_default_context(cafile=settings.ca_file)


def _failed(error: httpx.TransportError) -> WorkerFailed:
    match error:
        case httpx.ConnectError():
            return WorkerFailed("it cannot be connected to", refused=True)
        case httpx.ConnectTimeout():
            return WorkerFailed("it does not accept connections", refused=True)
        case httpx.PoolTimeout():
            return WorkerFailed("all connections to it are in use (workers.max_connections)", blameless=True)
        case httpx.TimeoutException():
            return WorkerFailed("it does not answer in time")
        case _:
            return WorkerFailed("the connection broke")
