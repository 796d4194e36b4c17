"""What the gateway tells of itself: logs, metrics, traces."""

from __future__ import annotations

import re
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from adaptive_lora.settings.section import Section

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\s*=[ -~]*")


class MonitoringSettings(Section):
    prometheus_enabled: bool = Field(True, description="serve /metrics")
    metrics_host: str = Field("127.0.0.1", description="address to bind for metrics_port")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port that serves /metrics alone, to anybody who reaches it: never publish it; 0 takes a "
        "free one; default: /metrics is on the public port only, where it needs the scope metrics",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="lowest level that is logged"
    )
    log_prompts: Literal["none", "hash", "full"] = Field(
        "hash",
        description="of each request's prompt, its log line has: nothing; its length and a keyed hash; or "
        "those and the text, shortened",
    )
    log_secret: SecretStr | None = Field(
        None,
        description="at least 32 random bytes, key of the hashes of prompts: gateways with the same one give "
        "a prompt the same hash; default: a random one of this process",
    )

    @model_validator(mode="after")
    def _a_port_has_something_to_serve(self) -> Self:
        if self.metrics_port is not None and not self.prometheus_enabled:
            raise ValueError(
                f"metrics_port is {self.metrics_port} and prometheus_enabled is false, which contradict each "
                "other: choose one"
            )
        return self

    @model_validator(mode="after")
    def _secret_is_long_enough(self) -> Self:
        if self.log_secret is not None and len(self.log_secret.get_secret_value().encode()) < 32:
            raise ValueError("log_secret must have at least 32 bytes: openssl rand -hex 32")
        return self


class TracingSettings(Section):
    """Traces of requests, sent to a collector by OTLP over HTTP."""

    endpoint: str | None = Field(
        None,
        description="http(s)://host:4318 of a collector, which takes traces at /v1/traces below it; default: "
        "nothing is traced",
    )
    headers: SecretStr | None = Field(
        None,
        description="headers that the collector asks for: name=value, several with commas between them, "
        "values percent-encoded",
    )
    sample_ratio: float = Field(0.1, ge=0, le=1, description="share of requests whose trace is recorded")
    service_name: str = Field("adaptive-lora", min_length=1, description="what the traces call this service")
    continue_traces: bool = Field(
        False,
        description="a request that names a trace (traceparent) belongs to it, and is recorded if its caller "
        "records it; only where all callers are your own. Default: a trace of its own, with a link",
    )

    @field_validator("endpoint")
    @classmethod
    def _is_an_address(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be http(s)://host:port of a collector that takes OTLP over HTTP")
        if parts.username is not None:
            raise ValueError("must have no credentials in it: set headers")
        return endpoint

    @field_validator("headers")
    @classmethod
    def _are_pairs(cls, headers: SecretStr | None) -> SecretStr | None:
        for pair in headers.get_secret_value().split(",") if headers else ():
            if pair.strip() and not _HEADER.fullmatch(pair.strip()):
                raise ValueError("must be name=value, with commas between several")
        return headers
