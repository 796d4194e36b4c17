"""What callers may use, the answers that are kept for them, and the Redis that gateways share for both."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from adaptive_lora.settings.section import Section


class RedisSettings(Section):
    """What several gateways share: limits, and cached answers."""

    url: SecretStr | None = Field(
        None,
        description="redis://user:password@host:6379/0, or rediss:// for TLS; default: limits and cache are "
        "this process's own",
    )
    timeout: float = Field(
        0.1, ge=0.01, le=5, description="seconds that a command may take, connecting included"
    )
    ca_file: Path | None = Field(
        None, description="certificates that sign a rediss server's own; default: those of the system"
    )
    password_file: Path | None = Field(
        None, description="file of the password, which url then leaves out; read for each new connection"
    )
    sentinels: tuple[str, ...] = Field(
        (),
        description="host:port of the Sentinels, if there are any: then the host in url is their name for "
        "the primary",
    )

    @model_validator(mode="after")
    def _is_an_address(self) -> Self:
        for sentinel in self.sentinels:
            host, _, port = sentinel.rpartition(":")
            if not host or not port.isdecimal():
                raise ValueError(f"sentinels: {sentinel!r} must be host:port")
        if self.url is None:
            return self
        try:
            parts = urlsplit(self.url.get_secret_value())
            port_is_valid = parts.port is None or parts.port > 0
        except ValueError:
            port_is_valid = False
        if not port_is_valid or parts.scheme not in ("redis", "rediss") or not parts.hostname:
            raise ValueError("url must be redis://host:port/database, or rediss://")
        if parts.query or not re.fullmatch(r"(/\d{0,4})?", parts.path):
            raise ValueError("url must end with the database's number, such as /0, or with the port")
        if self.password_file is not None and parts.password is not None:
            raise ValueError("there is a password in url and one in password_file: leave one out")
        return self


class CacheSettings(Section):
    """Answers that are kept, with inference.cache_enabled: in Redis if there is one, else in this process.
    The secret also makes the tenants' salts for the engine's prefix cache, whether answers are kept or
    not."""

    ttl: float = Field(3600.0, gt=0, le=30 * 86_400, description="seconds that an answer is kept")
    max_bytes: int = Field(
        64 << 20, ge=1 << 16, description="memory for answers in this process, without Redis; in bytes"
    )
    max_value_bytes: int = Field(
        256 << 10, ge=1_024, le=16 << 20, description="largest answer that is kept, compressed, in bytes"
    )
    secret: SecretStr | None = Field(
        None,
        description="at least 32 random bytes, the same for every gateway: keys in Redis then reveal no "
        "prompt, answers there cannot be forged, and gateways share the workers' prefix caches; default: "
        "keys are plain hashes",
    )
    namespace: str = Field(
        "", max_length=64, description="part of every key: with another one, all that was kept is forgotten"
    )

    @model_validator(mode="after")
    def _secret_is_long_enough(self) -> Self:
        if self.secret is not None and len(self.secret.get_secret_value().encode()) < 32:
            raise ValueError("secret must have at least 32 bytes: openssl rand -hex 32")
        return self


class TierSettings(Section):
    """What differs from the section's own limits; null is no limit."""

    requests_per_minute: int | None = Field(None, ge=1)
    burst_size: int = Field(10, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    token_burst: int | None = Field(None, ge=1)
    max_concurrent: int | None = Field(None, ge=1)
    tokens_per_month: int | None = Field(None, ge=1)


class RateLimitingSettings(Section):
    """What each tenant may use; without authentication, each address."""

    enabled: bool = Field(False, description="limit each caller")
    requests_per_minute: int | None = Field(60, ge=1, description="sustained rate; null is no limit")
    burst_size: int = Field(10, ge=1, description="requests at once")
    tokens_per_minute: int | None = Field(
        None,
        ge=1,
        description="of prompts and answers; the most that a request may use is reserved first",
    )
    token_burst: int | None = Field(
        None, ge=1, description="tokens at once, and so the most of one request; default: a minute's"
    )
    max_concurrent: int | None = Field(None, ge=1, description="requests in flight")
    tokens_per_month: int | None = Field(None, ge=1, description="budget of a calendar month, UTC")
    key_share: float = Field(
        1.0, gt=0, le=1, description="share of its tenant's limits that one credential may use"
    )
    tiers: dict[str, TierSettings] = Field(
        {},
        description="by tier, the limits that differ: {gold: {requests_per_minute: 600}}; a variable has "
        "JSON",
    )
    replicas: int = Field(1, ge=1, description="gateways: without Redis, each allows its part of the limits")
