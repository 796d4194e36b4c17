"""What a request's headers say of the cache."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers

from adaptive_lora.serving.cache.answers import CachePolicy

HEADER: Final = "x-adaptive-lora-cache"
"""Of an answer: where it came from. Of a request: `accept-samples`."""


def policy_of(headers: Headers) -> CachePolicy:
    """`Cache-Control: no-store` keeps out of the cache; `no-cache` (or `max-age=0`) gets a new answer, which
    is kept; `x-adaptive-lora-cache: accept-samples` takes an earlier sample although a random one was asked
    for."""
    values = ",".join(headers.getlist("cache-control")).lower().replace(" ", "")
    directives = set(values.split(","))
    accepts_samples = headers.get(HEADER, "").strip().lower() == "accept-samples"
    if "no-store" in directives:
        return CachePolicy("off", accepts_samples)
    if directives & {"no-cache", "max-age=0"}:
        return CachePolicy("refresh", accepts_samples)
    return CachePolicy("use", accepts_samples)
