"""From settings: the limits of a gateway, and the Redis that it shares with others. What is not asked for is
not imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptive_lora.errors import SettingsError
from adaptive_lora.settings import Settings
from adaptive_lora.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from adaptive_lora.serving.auth.attempts import Attempts
    from adaptive_lora.serving.quotas.limiter import Limiter
    from adaptive_lora.serving.redis import Redis


def make_redis(settings: Settings, metrics: Metrics) -> Redis | None:
    """None without `redis.url`. Connects to nothing yet. Raises SettingsError."""
    if settings.redis.url is None:
        if settings.redis.sentinels:
            raise SettingsError(
                "redis.sentinels is set, and redis.url is not: set it to redis://, the Sentinels' name for "
                "the primary, and /0"
            )
        return None
    from adaptive_lora.serving.redis import Redis

    return Redis(settings.redis, metrics.redis)


def make_limiter(settings: Settings, metrics: Metrics, redis: Redis | None) -> Limiter | None:
    """None unless `rate_limiting.enabled`."""
    return _limiter(settings, metrics, redis) if settings.rate_limiting.enabled else None


def make_attempts(settings: Settings, metrics: Metrics, redis: Redis | None) -> Attempts | None:
    """None unless somebody asks who calls, and `auth.failures_per_minute` limits how often that may fail."""
    if not settings.auth.enabled or settings.auth.failures_per_minute is None:
        return None
    from adaptive_lora.serving.auth.attempts import Attempts

    return Attempts(_limiter(settings, metrics, redis), per_minute=settings.auth.failures_per_minute)


def _limiter(settings: Settings, metrics: Metrics, redis: Redis | None) -> Limiter:
    from adaptive_lora.serving.quotas.limiter import Limiter

    shared = None
    if redis is not None:
        from adaptive_lora.serving.quotas.shared import SharedLedger

        shared = SharedLedger(redis)
    return Limiter(
        settings.rate_limiting, timeout_s=settings.api.timeout, shared=shared, metrics=metrics.limits
    )
