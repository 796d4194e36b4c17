"""Values in the Redis that gateways share. Fails open: while Redis is away every value is absent, and none
is kept."""

from __future__ import annotations

from adaptive_lora.errors import RedisUnavailable
from adaptive_lora.serving.redis import PREFIX, Redis


class RedisStore:
    """`Redis.call` bounds how long it takes; Redis' own `maxmemory-policy` what it holds."""

    def __init__(self, redis: Redis, ttl_s: float) -> None:
        self._redis = redis
        self._ttl_ms = max(round(ttl_s * 1000), 1)

    async def get(self, key: bytes) -> bytes | None:
        try:
            value = await self._redis.call(lambda client: client.get(_name(key)))
        except RedisUnavailable:
            return None
        return value if isinstance(value, bytes) else None

    async def set(self, key: bytes, value: bytes) -> bool:
        try:
            await self._redis.call(lambda client: client.set(_name(key), value, px=self._ttl_ms))
        except RedisUnavailable:
            return False
        return True


def _name(key: bytes) -> str:
    return f"{PREFIX}cache:{key.hex()}"
