"""The guide's cache, used as in the guide."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.backoff import NoBackoff
from redis.retry import Retry

from adaptive_lora.serving import inference_engine
from adaptive_lora.serving.inference_engine import InferenceCache
from tests.redis_servers import RedisServer, a_server

PARAMS = {"temperature": 0.0, "max_tokens": 16, "model": "code@3f9c2a000001"}


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    yield from a_server()


def answer(cache: InferenceCache, query: str, params: dict[str, Any], generated: list[str]) -> Any:
    """The guide's lines, with a generation that is counted."""
    cached = cache.get(query, params)
    if cached:
        return cached
    generated.append(query)
    cache.set(query, params, f"an answer to {query}")
    return f"an answer to {query}"


def test_as_in_the_guide(redis_server: RedisServer) -> None:
    redis_client = redis_server.client()
    generated: list[str] = []
    for _ in range(2):
        cache = InferenceCache(redis_client, ttl=3600)
        assert answer(cache, "what is 2 + 2?", PARAMS, generated) == "an answer to what is 2 + 2?"
    assert generated == ["what is 2 + 2?"]
    (key,) = redis_client.keys()
    assert 3_500 < redis_client.ttl(key) <= 3_600
    redis_client.close()


def test_without_redis_it_is_in_this_process() -> None:
    cache = InferenceCache(None)
    cache.set("q", PARAMS, {"text": "a", "tokens": [1, 2]})
    assert cache.get("q", PARAMS) == {"text": "a", "tokens": [1, 2]}
    assert cache.get("q", dict(reversed(PARAMS.items()))) is not None, "whatever their order"


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("q ", PARAMS),
        ("q", None),
        ("q", PARAMS | {"max_tokens": 17}),
        ("q", PARAMS | {"seed": None}),
        ("q", {name: value for name, value in PARAMS.items() if name != "model"}),
    ],
)
def test_every_parameter_counts(query: str, params: dict[str, Any] | None) -> None:
    cache = InferenceCache(None)
    cache.set("q", PARAMS, "a")
    assert cache.get(query, params) is None


text = st.text(st.characters(exclude_categories=["Cs"]))
asked = st.tuples(text, st.dictionaries(text, st.none() | st.booleans() | st.integers() | text))


@given(st.lists(st.tuples(asked, text), max_size=8), asked)
def test_it_finds_what_was_set_last_for_exactly_this_and_nothing_else(
    steps: list[tuple[tuple[str, dict[str, Any]], str]], wanted: tuple[str, dict[str, Any]]
) -> None:
    cache = InferenceCache(None)
    expected = None
    for (query, params), value in steps:
        cache.set(query, params, value)
        if repr((query, sorted(params.items()))) == repr((wanted[0], sorted(wanted[1].items()))):
            expected = value
    assert cache.get(*wanted) == expected


def test_a_redis_that_is_away_is_an_empty_cache_and_one_line(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(inference_engine, "PAUSE_S", 0.0)
    with redis.Redis(port=redis_server.port, socket_timeout=0.25, retry=Retry(NoBackoff(), 0)) as client:
        cache = InferenceCache(client)
        cache.set("q", PARAMS, "a")
        redis_server.stop(signal.SIGKILL)
        for _ in range(3):
            assert cache.get("q", PARAMS) is None
            cache.set("q", PARAMS, "b")
        assert caplog.text.count("the cache is away") == 1
        redis_server.start()
        cache.set("q", PARAMS, "c")
        assert cache.get("q", PARAMS) == "c"
        assert caplog.text.count("the cache is there again") == 1


def test_after_a_failure_redis_is_left_alone_for_a_while() -> None:
    class Dead:
        n_asked = 0

        def get(self, name: str, /) -> Any:
            self.n_asked += 1
            raise redis.ConnectionError("refused")

        def set(self, name: str, value: bytes, /, *, px: int) -> Any:
            return self.get(name)

    client = Dead()
    cache = InferenceCache(client)
    for _ in range(50):
        assert cache.get("q", PARAMS) is None
        cache.set("q", PARAMS, "a")
    assert client.n_asked == 1


def test_what_others_wrote_is_no_answer(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        cache = InferenceCache(client, secret=b"s" * 32)
        cache.set("q", PARAMS, "a")
        (key,) = client.keys()
        client.set(key, b"not what we wrote")
        assert cache.get("q", PARAMS) is None


def test_threads_may_share_one() -> None:
    cache = InferenceCache(None, max_bytes=20_000)

    def work(seed: int) -> int:
        for i in range(500):
            query = f"q{(i * seed) % 97}"
            assert cache.get(query) in (None, f"answer to {query}")
            cache.set(query, None, f"answer to {query}")
        return seed

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(1, 9))) == list(range(1, 9))


def test_an_answer_that_is_too_large_is_not_kept() -> None:
    cache = InferenceCache(None, max_value_bytes=1_024)
    cache.set("q", PARAMS, list(range(100_000)))
    assert cache.get("q", PARAMS) is None
