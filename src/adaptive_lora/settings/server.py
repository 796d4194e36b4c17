"""The gateway's own address, who may call it, and the managed platform that it runs on."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from adaptive_lora.settings.section import Section

_ROUTE = r"^/[A-Za-z0-9/_.:-]*$"


class ApiSettings(Section):
    host: str = Field("127.0.0.1", description="address to bind")
    port: int = Field(8000, ge=0, le=65535, description="port to bind; 0 takes a free one")
    workers: int = Field(
        1,
        ge=1,
        description="processes of one gateway: exactly 1, which is 1 per GPU with an engine of its own; with "
        "remote workers start more gateways",
    )
    timeout: float = Field(300.0, gt=0, description="seconds that one request may take, queue included")
    drain_seconds: float = Field(
        0.0,
        ge=0,
        description="seconds that a server goes on serving after SIGTERM, not ready any more, so that "
        "balancers see it; Ctrl-C does not wait",
    )
    grace_seconds: float = Field(
        30.0,
        ge=1,
        description="seconds from SIGTERM to the end, drain_seconds included: at most Kubernetes' "
        "terminationGracePeriodSeconds; what has not finished by then ends with an error",
    )
    max_body_bytes: int = Field(1_000_000, ge=1_000, description="largest request body, in bytes")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="host names that requests may carry; default: those of a loopback address, else any"
    )
    max_concurrent_requests: int = Field(
        1024,
        ge=1,
        description="requests in flight, waiting ones included; beyond it 503 with Retry-After",
    )
    max_connections: int = Field(
        2048,
        ge=1,
        description="open connections; beyond it the one that has idled longest is closed for a new one",
    )
    trusted_proxies: tuple[str, ...] = Field(
        (),
        description="addresses or networks (CIDR) whose X-Forwarded-For is believed; default: none, the "
        "connection's own address counts",
    )
    docs: bool = Field(True, description="serve /docs and /openapi.json, to anybody")
    admin_host: str = Field("127.0.0.1", description="address to bind for admin_port")
    admin_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port of the administrators' endpoints (keys, audit), 0 takes a free one; default: they "
        "are served nowhere",
    )

    @model_validator(mode="after")
    def _the_drain_leaves_time_to_finish(self) -> Self:
        if self.drain_seconds >= self.grace_seconds:
            raise ValueError(
                f"drain_seconds ({self.drain_seconds:g}) must be less than grace_seconds "
                f"({self.grace_seconds:g}): requests finish in what is left"
            )
        return self

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            ipaddress.ip_network(proxy)
        return proxies


class AuthSettings(Section):
    """Who may call. API keys need only `enabled`; JSON Web Tokens need a secret or a JWKS file."""

    enabled: bool = Field(
        False, description="ask for API keys or tokens; needed on an address that others can reach"
    )
    allow_insecure: bool = Field(
        False,
        description="with an explicit enabled: false, serve an address that others can reach without "
        "asking who calls",
    )
    jwt_secret: SecretStr | None = Field(
        None, description="what tokens are signed with (HS256), at least 32 random bytes"
    )
    jwt_secret_file: Path | None = Field(
        None,
        description="file of such secrets, one a line: the first signs, all are believed; read again when it "
        "changes",
    )
    algorithm: Literal["HS256", "RS256", "EdDSA"] = Field(
        "HS256", description="the one algorithm of tokens; others are refused whatever a token says"
    )
    jwks_file: Path | None = Field(
        None,
        description="JSON Web Key Set with the public keys of RS256 or EdDSA; read again when it changes",
    )
    issuer: str = Field("adaptive-lora", min_length=1, description="what a token's iss must be")
    audience: str = Field("adaptive-lora", min_length=1, description="what a token's aud must contain")
    leeway: float = Field(
        10.0, ge=0, le=300, description="seconds that clocks may differ when a token's times are checked"
    )
    require_agents: bool = Field(
        False, description="refuse tokens without the claim agents, which otherwise are good for all of them"
    )
    failures_per_minute: int | None = Field(
        30,
        ge=1,
        description="credentials that prove nothing, of one address; beyond it 429 instead of 401, while "
        "good ones are believed as ever; null is no limit",
    )


class PlatformSettings(Section):
    """A managed platform whose contract is answered beside our own endpoints. Its name also binds 0.0.0.0
    and the platform's port; without authentication callers may generate, and nothing else."""

    name: Literal["sagemaker", "vertex", "azureml"] | None = Field(
        None, description="'sagemaker', 'vertex' (Google) or 'azureml'; default: none"
    )
    predict_route: str | None = Field(
        None,
        pattern=_ROUTE,
        description="path that answers; default: /invocations, AIP_PREDICT_ROUTE or /predict, /score",
    )
    health_route: str | None = Field(
        None,
        pattern=_ROUTE,
        description="path of the platform's probe; default: /ping, AIP_HEALTH_ROUTE or /ready, /ready",
    )
