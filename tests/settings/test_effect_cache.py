"""The keys of the answer cache."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from adaptive_lora.adapters.base import BaseModelInfo
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.serving.cache.factory import make_salts, model_identity
from adaptive_lora.settings import CacheSettings
from tests.settings.effects import key, serving, settings_of

HEADER = "x-adaptive-lora-cache"
SECRET = "0123456789abcdef" * 2


async def ask(client: httpx.AsyncClient, prompt: str = "x", **options: Any) -> str | None:
    answer = await client.post("/generate", json={"prompt": prompt, **options})
    assert answer.status_code == 200
    return answer.headers.get(HEADER)


@key("inference.cache_enabled")
@pytest.mark.parametrize(("enabled", "second"), [(True, "hit"), (False, None)])
async def test_the_cache_can_be_switched_on(enabled: bool, second: str | None) -> None:
    async with serving(inference={"cache_enabled": enabled}) as client:
        await ask(client)
        assert await ask(client) == second


@key("cache.ttl")
async def test_answers_are_kept_for_the_configured_time() -> None:
    async with serving(inference={"cache_enabled": True}, cache={"ttl": 0.1}) as client:
        await ask(client)
        async with asyncio.timeout(60):
            while await ask(client) != "miss":  # noqa: ASYNC110 - it is a server's state
                await asyncio.sleep(0.02)


@key("cache.max_bytes")
async def test_the_memory_is_bounded() -> None:
    """An entry takes at least 256 bytes, so 1,000 of them do not fit."""
    async with serving(inference={"cache_enabled": True}, cache={"max_bytes": 1 << 16}) as client:
        for i in range(500):
            await ask(client, f"prompt {i}", max_tokens=1)
        page = (await client.get("/metrics")).text
        assert await ask(client, "prompt 0", max_tokens=1) == "miss"
        assert await ask(client, "prompt 499", max_tokens=1) == "hit"
    values = dict(line.rsplit(" ", 1) for line in page.splitlines() if line.startswith("cache_"))
    assert 0 < float(values["cache_bytes"]) <= 1 << 16
    assert float(values["cache_evictions_total"]) + float(values["cache_entries"]) == 500


@key("cache.max_value_bytes")
async def test_large_answers_are_not_kept() -> None:
    async with serving(inference={"cache_enabled": True}, cache={"max_value_bytes": 1024}) as client:
        for options, second in (
            ({"max_tokens": 4}, "hit"),
            ({"max_tokens": 2000, "ignore_eos": True}, "miss"),
        ):
            await ask(client, **options)
            while (result := await ask(client, **options)) == "shared":
                pass  # the one before is still being packed
            assert result == second


@key("cache.secret")
def test_gateways_with_the_same_secret_make_the_same_salts() -> None:
    one, same, none = (make_salts(CacheSettings.model_validate(c)) for c in (*[{"secret": SECRET}] * 2, {}))
    assert one.of("acme") == same.of("acme") != none.of("acme")
    with pytest.raises(ValidationError, match="at least 32 bytes"):
        CacheSettings.model_validate({"secret": "short"})


@key("cache.namespace")
def test_another_namespace_forgets_everything() -> None:
    identities = [
        model_identity(settings_of(cache={"namespace": name}), BaseModelInfo("fake-base"), FakeEngine())()
        for name in ("blue", "blue", "green")
    ]
    assert identities[0] == identities[1] != identities[2]
