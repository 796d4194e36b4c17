"""The deployment guide's Python, as docs/how-to/deploy.md (and authentication.md, large-models.md) has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis

from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.engine.vllm import VLLMInferenceEngine
from tests.project.doc_blocks import block_with
from tests.redis_servers import RedisServer, a_server
from tests.serving.auth.signing import SECRET, bearer, token

DEPLOY = "docs/how-to/deploy.md"


def run(page: str, words: str, **names: Any) -> dict[str, Any]:
    """The names after the page's block was run with these."""
    block = block_with(page, words)
    namespace: dict[str, Any] = {"__name__": "block", **names}
    exec(compile(block.text, str(block), "exec", dont_inherit=True), namespace)
    return namespace


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    yield from a_server()


@pytest.mark.parametrize("page", [DEPLOY, "docs/how-to/large-models.md"])
def test_an_engine_over_four_gpus(page: str) -> None:
    """Nothing is loaded before `start`: what is asked for is kept as it was said."""
    engine = run(page, "engine = VLLMInferenceEngine(", VLLMInferenceEngine=VLLMInferenceEngine)["engine"]
    assert engine.model_name == "meta-llama/Meta-Llama-3-70B"
    assert engine._options.tensor_parallel_size == 4
    assert engine._options.gpu_memory_utilization == 0.9


async def test_an_endpoint_with_tokens_and_checked_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET", SECRET)
    app = run(DEPLOY, "class GenerationRequest")["app"]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        whom = bearer(token(sub="ann"))
        answer = await client.post("/generate", json={"prompt": "hello"}, headers=whom)
        assert (answer.status_code, answer.json()) == (200, {"prompt": "hello", "user": "ann"})
        assert (await client.post("/generate", json={"prompt": "hello"})).status_code == 401
        for prompt in ("", "x" * 32_001, "an escape: \x1b[2J"):
            refused = await client.post("/generate", json={"prompt": prompt}, headers=whom)
            assert refused.status_code == 422, prompt[:20]


async def test_an_application_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/how-to/authentication.md"""
    monkeypatch.setenv("JWT_SECRET", SECRET)
    app = run("docs/how-to/authentication.md", "app = FastAPI()")["app"]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        answer = await client.post("/generate", headers=bearer(token(sub="ann")))
        assert answer.json() == {"hello": "ann"}
        assert (await client.post("/generate")).status_code == 401


def test_a_cache(redis_server: RedisServer) -> None:
    asked: list[str] = []

    def generate(query: str, params: dict[str, Any]) -> str:
        asked.append(query)
        return query.upper()

    with redis.Redis.from_url(redis_server.url) as client:
        answer = run(DEPLOY, "cache = InferenceCache(", redis_client=client, generate=generate)["answer"]
        assert [answer("hello", {"n": 1}), answer("hello", {"n": 1}), answer("hello", {"n": 2})] == [
            "HELLO"
        ] * 3
    assert asked == ["hello", "hello"]


async def test_a_batch() -> None:
    engine = FakeEngine()
    await engine.start()
    results = await run(DEPLOY, "async def batch_generate")["batch_generate"](engine, ["one", "two"])
    assert len(results) == 2
    assert all(result.text for result in results)
    await engine.stop()
