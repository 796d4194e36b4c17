"""The cache as the settings want it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from adaptive_lora.adapters.base import BaseModelInfo
from adaptive_lora.adapters.base_folder import base_folder
from adaptive_lora.adapters.base_text import text_fingerprint
from adaptive_lora.engine.base import Engine
from adaptive_lora.serving.cache.answers import AnswerCache
from adaptive_lora.serving.cache.codec import Codec
from adaptive_lora.serving.cache.key import KeyMaker, ModelIdentity
from adaptive_lora.serving.cache.salt import TenantSalts
from adaptive_lora.serving.cache.store import MemoryStore, Store
from adaptive_lora.settings import CacheSettings, Settings
from adaptive_lora.telemetry.cache import CacheMetrics

if TYPE_CHECKING:
    from adaptive_lora.serving.redis import Redis

_log = logging.getLogger(__name__)


def make_salts(settings: CacheSettings) -> TenantSalts:
    return TenantSalts(_secret(settings))


def make_cache(
    settings: Settings, base: BaseModelInfo, engine: Engine, metrics: CacheMetrics, *, redis: Redis | None
) -> AnswerCache | None:
    """None if inference.cache_enabled is false. Blocking: it reads the tokenizer's files."""
    if not settings.inference.cache_enabled:
        return None
    cache = settings.cache
    secret = _secret(cache)
    if redis is not None and secret is None:
        _log.warning(
            "cache.secret is not set: who can read Redis can test whether a prompt was asked, and who can "
            "write there can forge answers"
        )
    return AnswerCache(
        _make_store(cache, metrics, redis),
        Codec(cache.max_value_bytes, secret),
        KeyMaker(secret),
        model=model_identity(settings, base, engine),
        metrics=metrics,
    )


def model_identity(
    settings: Settings, base: BaseModelInfo, engine: Engine
) -> Callable[[], ModelIdentity | None]:
    """Says which model answers now; None while weights or tokenizer are not known, as with stock vLLM servers
    as workers, or with workers that differ."""
    model = settings.model
    options = (
        ("engine", model.engine),
        ("quantization", model.quantization),
        ("dtype", model.dtype),
        ("max_model_len", engine.max_model_len),
        ("seed", model.seed),
        ("namespace", settings.cache.namespace),
    )

    def identity(weights: str | None, text: str | None) -> ModelIdentity | None:
        return ModelIdentity(base.name, weights, text, options) if weights and text else None

    if model.engine == "remote":
        return lambda: identity(base.fingerprint, getattr(engine, "text_fingerprint", None))
    if model.engine == "fake":
        return lambda: identity("fake", "fake")
    folder = base_folder(model.base_model)
    known = identity(base.fingerprint, text_fingerprint(folder) if folder is not None else None)
    if known is None:
        _log.warning("the base model's files are not known here: nothing is cached")
    return lambda: known


def _make_store(settings: CacheSettings, metrics: CacheMetrics, redis: Redis | None) -> Store:
    if redis is not None:
        from adaptive_lora.serving.cache.redis_store import RedisStore

        return RedisStore(redis, settings.ttl)
    store = MemoryStore(settings.max_bytes, settings.ttl, on_evict=metrics.evicted)
    metrics.watch(n_bytes=lambda: store.n_bytes, n_entries=lambda: store.n_entries)
    return store


def _secret(settings: CacheSettings) -> bytes | None:
    return None if settings.secret is None else settings.secret.get_secret_value().encode()
