"""/v1/batches: OpenAI's batches, answered in the background."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from adaptive_lora.batches.records import NewBatch
from adaptive_lora.serving.addresses import ClientAddresses
from adaptive_lora.serving.auth.guard import needs, principal_of
from adaptive_lora.serving.batches.callers import Caller
from adaptive_lora.serving.batches.runner import Runner
from adaptive_lora.serving.routes.common import ON_GUARDED, as_json, errors
from adaptive_lora.serving.routes.openai_files import ON_READ, desk_of
from adaptive_lora.serving.schemas.batches import (
    WINDOW_S,
    BatchBody,
    BatchesQuery,
    BatchId,
    BatchList,
    BatchObject,
    batch_fields,
    page_fields,
)

router = APIRouter(prefix="/v1", tags=["OpenAI"], dependencies=[needs("generate")])

ON_CREATE = (*ON_GUARDED, 408, 413, 422, 507)


def _runner_of(request: Request) -> Runner:
    runner = request.app.state.runner
    if not isinstance(runner, Runner):
        raise TypeError("the application has no runner: build it with create_app")
    return runner


@router.post("/batches", response_model=BatchObject, responses=errors(*ON_CREATE))
async def create_batch(body: BatchBody, request: Request) -> Response:
    """Answer every line of a file within 24 hours, at low priority, with what your credential may do."""
    desk, principal = desk_of(request), principal_of(request.scope)
    address = ClientAddresses(desk.settings.api.trusted_proxies).of(request.scope)
    now = desk.now()
    kept = body.output_expires_after
    new = NewBatch(
        principal.tenant,
        Caller(principal, address).to_json(),
        body.endpoint,
        body.input_file_id,
        expires_at=now + timedelta(seconds=WINDOW_S),
        output_seconds=None if kept is None else kept.seconds,
        labels=body.metadata,
    )
    most = desk.settings.batches.max_unfinished
    batch = await desk.call(lambda stores: stores.batches.add(new, now=now, max_unfinished=most))
    _runner_of(request).look()
    return as_json(batch_fields(batch))


@router.get("/batches", response_model=BatchList, responses=errors(*ON_READ))
async def list_batches(query: Annotated[BatchesQuery, Query()], request: Request) -> Response:
    """Your tenant's batches, newest first."""
    desk, tenant = desk_of(request), principal_of(request.scope).tenant
    page = await desk.call(lambda stores: stores.batches.list(tenant, limit=query.limit, after=query.after))
    return as_json(page_fields(page, batch_fields))


@router.get("/batches/{batch_id}", response_model=BatchObject, responses=errors(*ON_READ))
async def get_batch(batch_id: BatchId, request: Request) -> Response:
    """How far a batch is."""
    desk, tenant = desk_of(request), principal_of(request.scope).tenant
    return as_json(batch_fields(await desk.call(lambda stores: stores.batches.get(tenant, batch_id))))


@router.post(
    "/batches/{batch_id}/cancel", response_model=BatchObject, responses=errors(*ON_READ, 408, 409, 413)
)
async def cancel_batch(batch_id: BatchId, request: Request) -> Response:
    """Stop a batch. What was answered until then is in its output file."""
    desk, tenant = desk_of(request), principal_of(request.scope).tenant
    batch = await desk.call(lambda stores: stores.batches.cancel(tenant, batch_id, now=desk.now()))
    _runner_of(request).look(batch_id)
    return as_json(batch_fields(batch))
