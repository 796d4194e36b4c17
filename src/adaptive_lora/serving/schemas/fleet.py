"""/adapters, /v1/models, /health, /live and /ready."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class AdapterBody(BaseModel):
    name: str
    version: str
    id: str
    description: str
    rank: int
    size_bytes: int
    n_examples: int
    state: Literal["ready"]
    residency: Literal["slot", "host", "disk"] = Field(description="where its weights are now")
    pinned: bool
    aliases: dict[str, float] = Field(
        description="what points to it, with the share of the bare name's traffic; `prod` takes the rest"
    )
    routing: Literal["routed", "provisional", "explicit_only"] = Field(
        description="whether `auto` may choose it; provisional: scored, but not chosen yet"
    )
    missing: str | None = Field(description="what it lacks to be routed to")


class RejectedBody(BaseModel):
    folder: str
    code: str
    message: str


class AdaptersAnswer(BaseModel):
    base_model: str
    adapters: list[AdapterBody] = Field(description="served, sorted by name")
    rejected: list[RejectedBody] = Field(description="found in the folder and not served, with the reason")


class ModelBody(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None


class ModelsAnswer(BaseModel):
    object: Literal["list"]
    data: list[ModelBody]


class LiveAnswer(BaseModel):
    status: Literal["alive"]


class ReadyAnswer(BaseModel):
    status: Literal["ready"]


class EngineHealth(BaseModel):
    running: int
    waiting: int
    kv_cache_usage: float | None
    gpu_memory_usage: float | None
    loaded_adapters: int
    n_preemptions: int | None
    workers: dict[str, int] | None


class BriefHealthAnswer(BaseModel):
    """For whom the server does not know."""

    status: Literal["ready", "starting", "failed", "stalled", "stopped"]


class HealthAnswer(BriefHealthAnswer):
    detail: str = Field(description="what it is doing, or why it does not serve")
    version: str
    uptime_s: float
    base_model: str
    engine: EngineHealth | None
    adapters: list[str]
    rejected: list[str]
    canary_age_s: float | None = Field(description="seconds since a generation is known to have worked")
