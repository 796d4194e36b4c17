"""Which keys have a test of their effect, and servers to show it on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx

from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.serving.api import create_app
from adaptive_lora.settings import Settings

Test = TypeVar("Test", bound=Callable[..., Any])
TESTED: set[str] = set()


def key(*names: str) -> Callable[[Test], Test]:
    """Declares which keys a test is about."""
    TESTED.update(names)
    return lambda test: test


def settings_of(**sections: dict[str, Any]) -> Settings:
    sections.setdefault("model", {})
    sections["model"] = {"engine": "fake", "base_model": "fake-base"} | sections["model"]
    return Settings.model_validate(sections)


@asynccontextmanager
async def serving(engine: FakeEngine | None = None, **sections: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings_of(**sections), engine=engine)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        async with asyncio.timeout(60):
            while (await client.get("/ready")).status_code != 200:  # noqa: ASYNC110 - it is a server's state
                await asyncio.sleep(0.01)
        yield client
