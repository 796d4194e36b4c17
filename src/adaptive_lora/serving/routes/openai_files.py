"""/v1/files: OpenAI's files, as far as batches need them."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, Response

from adaptive_lora.batches.records import StoredFile, new_file_id
from adaptive_lora.batches.stores import Stores
from adaptive_lora.errors import InvalidRequest, Unsupported
from adaptive_lora.serving.auth.guard import needs, principal_of
from adaptive_lora.serving.batches.desk import Desk, delete_file
from adaptive_lora.serving.batches.upload import Upload, receive_form
from adaptive_lora.serving.context import context_of
from adaptive_lora.serving.record import CLIENT_CLOSED
from adaptive_lora.serving.routes.common import ON_GUARDED, as_json, errors
from adaptive_lora.serving.schemas.batches import (
    MAX_KEPT_S,
    MIN_KEPT_S,
    ExpiresAfter,
    FileDeleted,
    FileId,
    FileList,
    FileObject,
    FilesQuery,
    file_fields,
    page_fields,
)

router = APIRouter(prefix="/v1", tags=["OpenAI"], dependencies=[needs("generate")])

UPLOAD_PATH = "/v1/files"
ON_READ = (*ON_GUARDED, 404, 422)
FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "additionalProperties": False,
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "JSON Lines, one request each"},
        "purpose": {"type": "string", "enum": ["batch"]},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": MIN_KEPT_S, "maximum": MAX_KEPT_S},
    },
}


def desk_of(request: Request) -> Desk:
    desk = request.app.state.desk
    if not isinstance(desk, Desk):
        raise TypeError("the application has no desk: build it with create_app")
    return desk


@router.post(
    "/files",
    response_model=FileObject,
    responses=errors(*ON_GUARDED, 408, 413, 415, 507),
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM}}}},
)
async def create_file(request: Request) -> Response:
    """Keep a file, for a batch. It expires after `batches.retention`, or when the form says."""
    desk, tenant = desk_of(request), principal_of(request.scope).tenant
    batches = desk.settings.batches
    contents = await desk.call(lambda stores: stores.contents)
    with desk.uploading(tenant), contents.draft() as draft:
        try:
            upload = await receive_form(
                request.stream(),
                request.headers.get("content-type", ""),
                draft,
                max_bytes=batches.max_file_bytes,
                timeout_s=desk.settings.api.timeout,
                run=desk.run,
            )
        except ClientDisconnect:
            context_of(request.scope).aborted = True
            return Response(status_code=CLIENT_CLOSED)
        keep_s = _keep_s(upload, batches.retention)
        now = desk.now()
        file = StoredFile(
            new_file_id(),
            tenant,
            "batch",
            upload.filename,
            upload.size_bytes,
            now,
            now + timedelta(seconds=keep_s),
        )

        def keep(stores: Stores) -> None:
            stores.files.draft(file, max_bytes=batches.max_stored_bytes)
            contents.put(draft, file.id)
            stores.files.publish(file)

        await desk.call(keep)
    return as_json(file_fields(file))


@router.get("/files", response_model=FileList, responses=errors(*ON_READ))
async def list_files(query: Annotated[FilesQuery, Query()], request: Request) -> Response:
    """Your tenant's files, newest first."""
    desk, tenant = desk_of(request), principal_of(request.scope).tenant
    page = await desk.call(
        lambda stores: stores.files.list(
            tenant,
            now=desk.now(),
            limit=query.limit,
            after=query.after,
            purpose=query.purpose,
            oldest_first=query.order == "asc",
        )
    )
    return as_json(page_fields(page, file_fields))


@router.get("/files/{file_id}", response_model=FileObject, responses=errors(*ON_READ))
async def get_file(file_id: FileId, request: Request) -> Response:
    """What is known about a file."""
    return as_json(file_fields(await _file(request, file_id)))


@router.get(
    "/files/{file_id}/content",
    response_class=FileResponse,
    responses=errors(*ON_READ) | {200: {"content": {"application/octet-stream": {}}, "description": "It"}},
)
async def get_content(file_id: FileId, request: Request) -> Response:
    """What is in a file."""
    file = await _file(request, file_id)
    path = await desk_of(request).call(lambda stores: stores.contents.fetch(file.id, file.size_bytes))
    # As an attachment: what a model or a caller wrote is never for a browser to interpret.
    return FileResponse(path, media_type="application/octet-stream", filename=file.filename)


@router.delete("/files/{file_id}", response_model=FileDeleted, responses=errors(*ON_READ, 408, 409, 413))
async def delete(file_id: FileId, request: Request) -> Response:
    """Remove a file; 409 while a batch has still to read it."""
    desk, tenant = desk_of(request), principal_of(request.scope).tenant
    await desk.call(partial(delete_file, tenant=tenant, file_id=file_id, now=desk.now()))
    return as_json({"id": file_id, "object": "file", "deleted": True})


async def _file(request: Request, file_id: str) -> StoredFile:
    desk, tenant = desk_of(request), principal_of(request.scope).tenant
    return await desk.call(lambda stores: stores.files.get(tenant, file_id, now=desk.now()))


def _keep_s(upload: Upload, retention_s: float) -> float:
    """What the form's fields ask for. Raises InvalidRequest, Unsupported."""
    fields: dict[str, Any] = dict(upload.fields)
    purpose = fields.pop("purpose", None)
    if purpose is None:
        raise InvalidRequest("purpose: the form has no such field")
    if purpose != "batch":
        raise Unsupported("purpose: only files for batches are kept here")
    if upload.size_bytes == 0:
        raise InvalidRequest("file: it is empty")
    wanted = {name: fields.pop(f"expires_after[{name}]", None) for name in ("anchor", "seconds")}
    if fields:
        raise InvalidRequest("the form has a field that is not known: file, purpose and expires_after are")
    if wanted == {"anchor": None, "seconds": None}:
        return retention_s
    try:
        expires_after = ExpiresAfter.model_validate_strings(wanted)
    except ValidationError:
        raise InvalidRequest(
            f"expires_after: its anchor is created_at, its seconds are {MIN_KEPT_S} to {MAX_KEPT_S}"
        ) from None
    return min(expires_after.seconds, retention_s)
