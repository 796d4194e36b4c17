"""Gateways with authentication on, tokens, and keys."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from adaptive_lora.access.store import AccessStore
from adaptive_lora.adapters.registry_database import sqlite_url
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.serving.admin import create_admin_app
from adaptive_lora.serving.auth.gate import Gate
from tests.serving.auth.signing import SECRET
from tests.serving.conftest import ready


@dataclass
class Gateway:
    """One process's public and administrators' applications."""

    app: FastAPI
    client: httpx.AsyncClient
    admin: httpx.AsyncClient
    store: AccessStore
    """Another process's, as it were."""

    @property
    def gate(self) -> Gate:
        gate = self.app.state.gate
        assert isinstance(gate, Gate)
        return gate


OpenGateway = Callable[..., AbstractAsyncContextManager[Gateway]]


@pytest.fixture
def open_gateway(build: Callable[..., FastAPI], tmp_path: Path) -> OpenGateway:
    @asynccontextmanager
    async def _open(*, auth: dict[str, Any] | None = None, **sections: Any) -> AsyncIterator[Gateway]:
        state = tmp_path / "state"
        auth = {"enabled": True, "jwt_secret": SECRET} | (auth or {})
        app = build(engine=FakeEngine(), auth=auth, storage={"path": state}, **sections)
        at = {"base_url": "http://127.0.0.1"}
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), **at) as client,
            httpx.AsyncClient(transport=httpx.ASGITransport(create_admin_app(app)), **at) as admin,
        ):
            await ready(client)
            store = AccessStore.open(sqlite_url(state / "registry.db"))
            yield Gateway(app, client, admin, store)
            store.close()

    return _open


@pytest.fixture
async def gateway(open_gateway: OpenGateway) -> AsyncIterator[Gateway]:
    async with open_gateway() as gateway:
        yield gateway


@pytest.fixture
def random_secret() -> str:
    return secrets.token_urlsafe(48)
