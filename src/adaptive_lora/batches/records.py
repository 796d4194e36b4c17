"""What is known about files and batches, as values."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Generic, Literal, TypeVar

T = TypeVar("T")

Purpose = Literal["batch", "batch_output"]
Endpoint = Literal["/v1/chat/completions", "/v1/completions"]
Status = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
]
UNFINISHED: Final[tuple[Status, ...]] = ("validating", "in_progress", "finalizing", "cancelling")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a tenant's. Its content is never changed."""

    id: str
    tenant: str
    purpose: Purpose
    filename: str
    """As the caller calls it; no path here is made of it."""
    size_bytes: int
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class NewBatch:
    """What a caller asks for."""

    tenant: str
    caller: Mapping[str, Any]
    """Who asks, as JSON: its requests are answered with what it may do."""
    endpoint: Endpoint
    input_file_id: str
    expires_at: datetime
    output_seconds: int | None = None
    """How long its output is kept; None: as long as any."""
    labels: Mapping[str, str] | None = None
    """OpenAI's metadata."""


@dataclass(frozen=True, slots=True)
class Batch:
    id: str
    tenant: str
    caller: Mapping[str, Any] = field(repr=False)
    endpoint: Endpoint
    input_file_id: str
    output_file_id: str | None
    error_file_id: str | None
    output_seconds: int | None
    labels: Mapping[str, str] | None
    status: Status
    errors: tuple[Mapping[str, Any], ...] | None
    """Why it failed as a whole: OpenAI's code, message, param, line."""
    n_requests: int
    n_completed: int
    n_failed: int
    n_input_tokens: int
    n_output_tokens: int
    created_at: datetime
    expires_at: datetime
    in_progress_at: datetime | None
    finalizing_at: datetime | None
    cancelling_at: datetime | None
    ended_at: datetime | None

    @property
    def is_finished(self) -> bool:
        return self.status not in UNFINISHED


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one request of a batch, as its line of the output or the error file."""

    line: int
    """Which request of the input file, from 0."""
    content: str = field(repr=False)
    is_error: bool = False
    n_input_tokens: int = 0
    n_output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, and whether it goes on."""

    items: tuple[T, ...]
    has_more: bool


def new_file_id() -> str:
    return f"file-{secrets.token_hex(16)}"


def new_batch_id() -> str:
    return f"batch_{secrets.token_hex(16)}"
