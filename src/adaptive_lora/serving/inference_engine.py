"""The deployment guide's cache, under the guide's name, for code of one's own in front of a generation:

    cache = InferenceCache(redis_client, ttl=3600)

    cached = cache.get(query, params)
    if cached:
        return cached
    answer = generate(query, params)
    cache.set(query, params, answer)

The server does not need it: `inference.cache_enabled` switches on a cache of its own (`serving.cache`), which
has the same keys, codec and memory, and besides knows tenants, adapter versions and streams.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from adaptive_lora.serving.cache.codec import Codec, Undecodable
from adaptive_lora.serving.cache.key import KeyMaker
from adaptive_lora.serving.cache.store import MemoryStore

_log = logging.getLogger(__name__)

KEY_FORMAT: Final = "adaptive-lora inference cache 1"
PREFIX: Final = "adaptive-lora:inference-cache:"
PAUSE_S: Final = 5.0
"""For which a Redis that has failed is not asked again."""


class RedisClient(Protocol):
    """What is used of `redis.Redis`. It must answer in bytes (not `decode_responses`)."""

    def get(self, name: str, /) -> Any: ...

    def set(self, name: str, value: bytes, /, *, px: int) -> Any: ...


class InferenceCache:
    """Exact match: an answer is found again for the same query and all of the same parameters. Blocking; for
    any number of threads.

    What makes two requests differ must be among the parameters: model, adapter version, tenant. Give only
    repeatable requests to it (temperature 0, or a seed).
    """

    def __init__(
        self,
        redis_client: RedisClient | None,
        ttl: float = 3600,
        *,
        max_value_bytes: int = 256 << 10,
        max_bytes: int = 64 << 20,
        secret: bytes | None = None,
    ) -> None:
        """`redis_client` None keeps answers in this process, at most `max_bytes`. `ttl` in seconds. Answers
        of more than `max_value_bytes`, compressed, are not kept. `secret`: 32 random bytes, so that keys in
        Redis reveal no query and answers there cannot be forged.

        How long a Redis that does not answer may delay a call is the client's affair (by default redis-py
        tries for seconds): give it a `socket_timeout` and few retries. After that it is not asked for
        `PAUSE_S`.
        """
        self._redis = redis_client
        self._ttl_s = ttl
        self._keys = KeyMaker(secret)
        self._codec = Codec(max_value_bytes, secret)
        self._memory = MemoryStore(max_bytes, ttl)
        self._lock = threading.Lock()
        self._is_away = False
        self._ask_again_at = 0.0

    def get(self, query: str, params: Mapping[str, Any] | None = None) -> Any:
        """The answer that was set for exactly these; None if there is none, or Redis does not answer."""
        key = self._key(query, params)
        value = self._read(key)
        if value is None:
            return None
        try:
            return self._codec.decode(key, value)
        except Undecodable:
            return None

    def set(self, query: str, params: Mapping[str, Any] | None, value: Any) -> None:
        """Keep an answer: text, or whatever MessagePack holds (tuples come back as lists). Never fails for
        Redis' sake."""
        key = self._key(query, params)
        data = self._codec.encode(key, value)
        if data is not None:
            self._write(key, data)

    def _key(self, query: str, params: Mapping[str, Any] | None) -> bytes:
        """The order of the parameters does not matter. Raises TypeError for what cannot be part of a key."""
        return self._keys.digest(KEY_FORMAT, query, dict(sorted((params or {}).items())))

    def _read(self, key: bytes) -> bytes | None:
        if self._redis is None:
            with self._lock:
                return self._memory.read(key)
        redis = self._redis
        value = self._asked(lambda: redis.get(PREFIX + key.hex()))
        return value if isinstance(value, bytes) else None

    def _write(self, key: bytes, data: bytes) -> None:
        if self._redis is None:
            with self._lock:
                self._memory.write(key, data)
            return
        redis, ttl_ms = self._redis, max(round(self._ttl_s * 1000), 1)
        self._asked(lambda: redis.set(PREFIX + key.hex(), data, px=ttl_ms))

    def _asked(self, command: Callable[[], Any]) -> Any:
        """What Redis says; None if it does not answer. One log line for each change, not for each call."""
        if time.monotonic() < self._ask_again_at:
            return None
        try:
            said = command()
        except Exception as error:  # a cache that is away is an empty one, whatever client this is
            self._ask_again_at = time.monotonic() + PAUSE_S
            if not self._is_away:
                self._is_away = True
                _log.warning("the cache is away (%s): nothing is cached", type(error).__name__)
            return None
        if self._is_away:
            self._is_away = False
            _log.info("the cache is there again")
        return said
