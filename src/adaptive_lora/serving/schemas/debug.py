"""What the administrators' looks into the process answer."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class DeviceItem(BaseModel):
    worker: str = Field(description="the rank in its engine, or a remote worker's URL and that")
    device: str = Field(description="in that worker: `cuda:0` and the like")
    allocated: int = Field(description="bytes, by tensors of that worker")
    reserved: int = Field(description="bytes, by its allocator, tensors included")
    total: int
    free: int = Field(description="bytes on the device, whoever uses the rest")


class ProcessItem(BaseModel):
    """This gateway's own."""

    host: str
    pid: int
    rss_bytes: int
    cpu_s: float
    n_threads: int
    n_tasks: int = Field(description="of asyncio")
    n_open_files: int
    uptime_s: float


class ProfileAnswer(BaseModel):
    gpu_memory_allocated: int | None = Field(description="bytes, of all `devices`")
    gpu_memory_cached: int | None = Field(description="bytes, of all `devices`: what is reserved")
    adapters_loaded: int | None
    queue_size: int | None = Field(description="generations that wait: for their turn, or in the engine")
    reasons: dict[str, str] = Field(description="why a figure is null")
    devices: list[DeviceItem] = Field(description="of the workers that tell")
    process: ProcessItem


class LineItem(BaseModel):
    file: str
    line: int
    n_bytes: int
    n_blocks: int


class MemoryAnswer(BaseModel):
    seconds: float = Field(description="how long allocations were traced")
    lines: list[LineItem] = Field(description="allocated then and still in use, the largest first")
    traced_bytes: int = Field(description="of all lines")
    overhead_bytes: int = Field(description="what tracing itself took")
    rss_before: int = Field(description="bytes of the process")
    rss_after: int


class SpeedscopeAnswer(BaseModel):
    """https://www.speedscope.app/file-format-schema.json"""

    schema_: str = Field(alias="$schema")
    name: str
    exporter: str
    activeProfileIndex: int
    shared: dict[str, Any]
    profiles: list[dict[str, Any]]
