"""/debug/profile: looks into this process and its workers. Served on the administrators' port alone."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Final, Literal

import psutil
from fastapi import APIRouter, Query, Request
from starlette.responses import PlainTextResponse, Response

from adaptive_lora.access.records import AuditAction
from adaptive_lora.adapters.registry_checks import MAX_WHO_CHARS
from adaptive_lora.errors import EngineError, Unsupported
from adaptive_lora.serving.auth.gate import Gate
from adaptive_lora.serving.auth.guard import needs, principal_of
from adaptive_lora.serving.profiling import MAX_SECONDS, Profiling
from adaptive_lora.serving.routes.common import ON_GUARDED, as_json, errors, runtime_of
from adaptive_lora.serving.runtime import Runtime
from adaptive_lora.serving.schemas.debug import MemoryAnswer, ProfileAnswer, SpeedscopeAnswer
from adaptive_lora.types import DeviceMemory

router = APIRouter(prefix="/debug/profile", tags=["debug"], dependencies=[needs("admin")])

_log = logging.getLogger(__name__)

WORKERS_TIMEOUT_S: Final = 5.0
"""For the workers to tell their memory, which they do between two steps."""
Seconds = Annotated[float, Query(gt=0, le=MAX_SECONDS, description="how long to look")]
ON_PROFILE = (*ON_GUARDED, 408, 409, 413, 422)


@router.get("", response_model=ProfileAnswer, responses=errors(*ON_GUARDED))
async def profile(request: Request) -> Response:
    """The engine's memory, adapters and queue, and this process. What cannot be known is null, with the
    reason."""
    runtime = runtime_of(request)
    reasons: dict[str, str] = {}
    devices = await _devices(runtime, reasons)
    stats = await runtime.stats()
    if stats is None:
        reason = f"the engine does not answer: {runtime.detail}"
        reasons |= dict.fromkeys(("adapters_loaded", "queue_size"), reason)
    return as_json(
        {
            "gpu_memory_allocated": sum(each.allocated for each in devices) if devices else None,
            "gpu_memory_cached": sum(each.reserved for each in devices) if devices else None,
            "adapters_loaded": stats.loaded_adapters if stats else None,
            "queue_size": stats.waiting + len(runtime.queues) if stats else None,
            "reasons": reasons,
            "devices": [asdict(each) for each in devices],
            "process": _process(runtime),
        }
    )


@router.post(
    "/cpu",
    response_model=SpeedscopeAnswer,
    responses=errors(*ON_PROFILE)
    | {200: {"content": {"text/plain": {}}, "description": "The profile; text with `format=collapsed`"}},
)
async def profile_cpu(
    request: Request, seconds: Seconds = 10.0, format: Literal["speedscope", "collapsed"] = "speedscope"
) -> Response:
    """Where this process spends its CPU time, by stack: for speedscope.app, or for flame graph tools."""
    from adaptive_lora.telemetry import cpu_profile

    found = await _profiling(request).run(
        partial(cpu_profile.profile_cpu, seconds),
        first=lambda: _audit(request, "profile.cpu", {"seconds": seconds}),
    )
    if format == "collapsed":
        return PlainTextResponse(found.collapsed())
    return as_json(found.speedscope(_name()))


@router.post("/memory", response_model=MemoryAnswer, responses=errors(*ON_PROFILE))
async def profile_memory(
    request: Request, seconds: Seconds = 10.0, lines: Annotated[int, Query(ge=1, le=200)] = 30
) -> Response:
    """What is allocated meanwhile and kept, by line of Python. Python is slower while this looks."""
    from adaptive_lora.telemetry import memory_profile

    found = await _profiling(request).run(
        partial(memory_profile.profile_memory, seconds, lines),
        first=lambda: _audit(request, "profile.memory", {"seconds": seconds}),
    )
    fields = asdict(found)
    return as_json({"seconds": round(fields.pop("took_s"), 3), **fields})


async def _devices(runtime: Runtime, reasons: dict[str, str]) -> list[DeviceMemory]:
    try:
        async with asyncio.timeout(WORKERS_TIMEOUT_S):
            return list(await runtime.engine.device_memory())
    except (Unsupported, EngineError) as error:
        reason = error.message
    except TimeoutError:
        reason = f"the engine's workers did not tell within {WORKERS_TIMEOUT_S:g} s"
    reasons |= dict.fromkeys(("gpu_memory_allocated", "gpu_memory_cached"), reason)
    return []


def _process(runtime: Runtime) -> dict[str, Any]:
    process = psutil.Process()
    with process.oneshot():
        times = process.cpu_times()
        return {
            "host": socket.gethostname(),
            "pid": process.pid,
            "rss_bytes": process.memory_info().rss,
            "cpu_s": round(times.user + times.system, 3),
            "n_threads": process.num_threads(),
            "n_tasks": len(asyncio.all_tasks()),
            "n_open_files": process.num_fds(),
            "uptime_s": round(time.monotonic() - runtime.started_at, 3),
        }


async def _audit(request: Request, action: AuditAction, detail: Mapping[str, Any]) -> None:
    """Raises RegistryUnavailable: what cannot be put on record is not done."""
    gate = request.app.state.gate
    admin = principal_of(request.scope)
    who = admin.subject[:MAX_WHO_CHARS]
    if isinstance(gate, Gate):
        store = gate.credentials.store
        await asyncio.to_thread(partial(store.note, action, admin.tenant, _name(), detail, who=who))
    _log.info("%s of %s for %s", action, _name(), who, extra=dict(detail))


def _name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _profiling(request: Request) -> Profiling:
    profiling = request.app.state.profiling
    if not isinstance(profiling, Profiling):
        raise TypeError("the application takes no profiles: build it with create_admin_app")
    return profiling
