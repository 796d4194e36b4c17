"""Bodies of OpenAI's Files and Batch API."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from adaptive_lora.batches.records import Batch, Endpoint, Page, Purpose, Status, StoredFile
from adaptive_lora.serving.schemas.common import Strict, Text

T = TypeVar("T")

MIN_KEPT_S = 3_600
MAX_KEPT_S = 30 * 86_400
MAX_LABELS = 16
MAX_FILES_LISTED = 10_000
MAX_BATCHES_LISTED = 100
WINDOW_S = 86_400
"""The one completion window: 24h."""

FileId = Annotated[str, Path(pattern="^file-[0-9a-f]{32}$")]
BatchId = Annotated[str, Path(pattern="^batch_[0-9a-f]{32}$")]
Label = Annotated[Text, StringConstraints(min_length=1, max_length=64)]
LabelText = Annotated[Text, StringConstraints(max_length=512)]


class ExpiresAfter(Strict):
    anchor: Literal["created_at"]
    seconds: int = Field(ge=MIN_KEPT_S, le=MAX_KEPT_S)


class BatchBody(Strict):
    input_file_id: Annotated[str, StringConstraints(pattern="^file-[0-9a-f]{32}$")] = Field(
        description="a file that was uploaded with the purpose `batch`"
    )
    endpoint: Endpoint = Field(description="what answers each line")
    completion_window: Literal["24h"]
    metadata: Annotated[dict[Label, LabelText], Field(max_length=MAX_LABELS)] | None = None
    output_expires_after: ExpiresAfter | None = Field(
        None, description="default, and the most: `batches.retention`"
    )


class Paging(BaseModel):
    """A list's query; unknown parameters are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: str | None = Field(None, max_length=64, description="the last id of the page before")


class FilesQuery(Paging):
    purpose: Purpose | None = None
    limit: int = Field(MAX_FILES_LISTED, ge=1, le=MAX_FILES_LISTED)
    order: Literal["asc", "desc"] = Field("desc", description="by age, newest first by default")


class BatchesQuery(Paging):
    limit: int = Field(20, ge=1, le=MAX_BATCHES_LISTED)


class FileObject(BaseModel):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    status: Literal["processed"]


class FileList(BaseModel):
    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"]
    deleted: Literal[True]


class BatchError(BaseModel):
    code: str
    message: str
    param: str | None
    line: int | None = Field(description="of the input file, from 1")


class BatchErrors(BaseModel):
    object: Literal["list"]
    data: list[BatchError]


class BatchCounts(BaseModel):
    total: int
    completed: int
    failed: int


class BatchUsage(BaseModel):
    """Of the answers so far."""

    input_tokens: int
    input_tokens_details: dict[Literal["cached_tokens"], int] = Field(description="0: not told apart here")
    output_tokens: int
    output_tokens_details: dict[Literal["reasoning_tokens"], int] = Field(
        description="0: not told apart here"
    )
    total_tokens: int


class BatchObject(BaseModel):
    id: str
    object: Literal["batch"]
    endpoint: Endpoint
    errors: BatchErrors | None
    input_file_id: str
    completion_window: Literal["24h"]
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: BatchCounts
    usage: BatchUsage
    metadata: dict[str, str] | None


class BatchList(BaseModel):
    object: Literal["list"]
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def file_fields(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": _second(file.created_at),
        "expires_at": _second(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }


def batch_fields(batch: Batch) -> dict[str, Any]:
    ended = {
        f"{ending}_at": _second(batch.ended_at if batch.status == ending else None)
        for ending in ("completed", "failed", "expired", "cancelled")
    }
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": None if batch.errors is None else {"object": "list", "data": list(batch.errors)},
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": _second(batch.created_at),
        "in_progress_at": _second(batch.in_progress_at),
        "expires_at": _second(batch.expires_at),
        "finalizing_at": _second(batch.finalizing_at),
        "cancelling_at": _second(batch.cancelling_at),
        **ended,
        "request_counts": {
            "total": batch.n_requests,
            "completed": batch.n_completed,
            "failed": batch.n_failed,
        },
        "usage": {
            "input_tokens": batch.n_input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": batch.n_output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": batch.n_input_tokens + batch.n_output_tokens,
        },
        "metadata": None if batch.labels is None else dict(batch.labels),
    }


def page_fields(page: Page[T], fields: Callable[[T], dict[str, Any]]) -> dict[str, Any]:
    data = [fields(item) for item in page.items]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": page.has_more,
    }


def _second(moment: datetime | None) -> int | None:
    """Unix time."""
    return None if moment is None else int(moment.timestamp())
