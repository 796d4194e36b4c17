"""LiteLLM's client, and its router, with this server behind the provider `openai/`."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import AsyncIterator, Callable
from functools import partial
from types import ModuleType
from typing import Any

import openai
import pytest

from adaptive_lora.engine.fake import FakeEngine
from tests.serving.auth.signing import SECRET
from tests.serving.clients.conftest import ADD, PING, USER, Order
from tests.serving.conftest import Listen

NAMED = {"type": "function", "function": {"name": "ping"}}


@pytest.fixture
async def litellm(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ModuleType]:
    """Without its look at the network when it is imported, and without the warnings of its own code. What it
    opened is closed; it keeps its clients."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import litellm
        from litellm.llms.custom_httpx.async_client_cleanup import close_litellm_async_clients

        monkeypatch.setattr(litellm, "suppress_debug_info", True)
        yield litellm
        await close_litellm_async_clients()
        for client in litellm.in_memory_llm_clients_cache.cache_dict.values():
            if isinstance(client, openai.OpenAI):
                client.close()
        litellm.in_memory_llm_clients_cache.flush_cache()


@pytest.fixture
def to_server(url: str) -> dict[str, Any]:
    return {"model": "openai/code", "api_base": url, "api_key": "none", "max_retries": 0, "num_retries": 0}


Ask = Callable[..., Any]


@pytest.fixture
def ask(litellm: ModuleType, to_server: dict[str, Any]) -> Ask:
    def _ask(**options: Any) -> Any:
        return litellm.acompletion(**{**to_server, "messages": USER, **options})

    return _ask


async def test_completion_and_who_answered(ask: Ask, litellm: ModuleType, to_server: dict[str, Any]) -> None:
    answer = await ask(model="openai/auto")
    assert answer.model == "code"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens > 0
    assert answer.adaptive_lora["agent"] == "code"
    whole = await asyncio.to_thread(partial(litellm.completion, messages=USER, **to_server))
    assert whole.choices[0].message.content == answer.choices[0].message.content
    composed = await ask(model="openai/code:0.7+creative:0.3")
    assert composed.model == "code:0.7+creative:0.3"


async def test_a_stream_and_its_usage(ask: Ask, litellm: ModuleType, to_server: dict[str, Any]) -> None:
    whole = await ask()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = [chunk async for chunk in await ask(**options)]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == (
        whole.choices[0].message.content
    )
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    in_a_thread = await asyncio.to_thread(
        lambda: list(litellm.completion(**to_server, messages=USER, **options))
    )
    assert len(in_a_thread) == len(chunks) > 4


async def test_text_completions(litellm: ModuleType, to_server: dict[str, Any]) -> None:
    options = to_server | {"model": "text-completion-openai/base", "max_tokens": 4}
    answer = await litellm.atext_completion(**options, prompt=["one", "two"])
    assert len(answer.choices) == 2
    stream = await litellm.atext_completion(**options, prompt="one", stream=True)
    assert "".join([chunk.choices[0].text or "" async for chunk in stream]) == answer.choices[0].text


async def test_how_to_sample(ask: Ask) -> None:
    answer = await ask(
        n=2, temperature=0.5, top_p=0.9, seed=1, stop=["zzz"], max_tokens=4, logprobs=True, top_logprobs=2,
        presence_penalty=0.1, frequency_penalty=0.1, top_k=5, user="u", metadata={"a": "b"},
    )  # fmt: skip
    assert [len(choice.logprobs.content) for choice in answer.choices] == [4, 4]


async def test_structured_output(ask: Ask) -> None:
    answer = await ask(response_format=Order)
    assert Order.model_validate_json(answer.choices[0].message.content)
    answer = await ask(response_format={"type": "json_object"})
    assert json.loads(answer.choices[0].message.content) == {}


async def test_functions_are_called_where_a_call_is_demanded(ask: Ask, litellm: ModuleType) -> None:
    for choice, name in (("required", "add"), (NAMED, "ping")):
        options = {"tools": [ADD, PING], "tool_choice": choice}
        (call,) = (await ask(**options)).choices[0].message.tool_calls
        assert call.function.name == name
        chunks = [chunk async for chunk in await ask(**options, stream=True)]
        (streamed,) = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls
        assert streamed.function == call.function


async def test_a_call_its_result_and_the_answer(ask: Ask) -> None:
    asked = (await ask(tools=[ADD, PING], tool_choice="required")).choices[0].message
    result = {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "3"}
    for said in (asked, asked.model_dump()):
        answer = await ask(messages=[*USER, said, result])
        assert answer.choices[0].message.content
    again = await ask(messages=[*USER, answer.choices[0].message.model_dump(), *USER])
    assert again.choices[0].message.content


async def test_errors_are_its_own(ask: Ask, litellm: ModuleType, engine: FakeEngine) -> None:
    image = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}
    for kind, options in (
        (litellm.NotFoundError, {"model": "openai/gpt-4o"}),
        (litellm.BadRequestError, {"temperature": 9}),
        (litellm.BadRequestError, {"messages": [{"role": "user", "content": [image]}]}),
        (litellm.BadRequestError, {"tools": [ADD]}),
        (litellm.ContextWindowExceededError, {"messages": [{"role": "user", "content": "word " * 5_000}]}),
    ):
        with pytest.raises(kind):
            await ask(**options)
    engine.die()
    with pytest.raises(litellm.ServiceUnavailableError):
        await ask()


async def test_credentials_and_limits(litellm: ModuleType, listen: Listen) -> None:
    limits = {"enabled": True, "requests_per_minute": 1, "burst_size": 1}
    for sections, kind, n_served in (
        ({"auth": {"enabled": True, "jwt_secret": SECRET}}, litellm.AuthenticationError, 0),
        ({"rate_limiting": limits}, litellm.RateLimitError, 1),
    ):
        async with listen(**sections) as port:
            options = {"api_base": f"http://127.0.0.1:{port}/v1", "api_key": "wrong", "max_retries": 0}
            for _ in range(n_served):
                await litellm.acompletion(model="openai/code", messages=USER, **options)
            with pytest.raises(kind):
                await litellm.acompletion(model="openai/code", messages=USER, **options)


async def test_its_router_falls_back(litellm: ModuleType, to_server: dict[str, Any]) -> None:
    deployments = [
        {"model_name": "first", "litellm_params": {**to_server, "model": "openai/not-there"}},
        {"model_name": "second", "litellm_params": to_server},
    ]
    router = litellm.Router(model_list=deployments, fallbacks=[{"first": ["second"]}], num_retries=0)
    answer = await router.acompletion(model="first", messages=USER)
    assert answer.model == "code"


async def test_the_models_that_it_lists(litellm: ModuleType, url: str) -> None:
    listed = await asyncio.to_thread(
        litellm.get_valid_models,
        check_provider_endpoint=True,
        custom_llm_provider="openai",
        api_key="none",
        api_base=url,
    )
    assert {"auto", "base", "code", "code@prod"} <= set(listed)
