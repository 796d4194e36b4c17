"""The stores in both kinds of database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adaptive_lora.batches.records import NewBatch, StoredFile, new_file_id
from adaptive_lora.batches.stores import Stores

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def later(**amount: float) -> datetime:
    return NOW + timedelta(**amount)


def file_of(
    tenant: str = "acme", *, at: datetime = NOW, keep: timedelta = DAY, **changes: object
) -> StoredFile:
    fields = {"purpose": "batch", "filename": "in.jsonl", "size_bytes": 10} | changes
    return StoredFile(new_file_id(), tenant, created_at=at, expires_at=at + keep, **fields)  # type: ignore[arg-type]


def kept(stores: Stores, tenant: str = "acme", **changes: object) -> StoredFile:
    """A file that is seen."""
    file = file_of(tenant, **changes)  # type: ignore[arg-type]
    stores.files.draft(file)
    stores.files.publish(file)
    return file


def batch_of(file: StoredFile) -> NewBatch:
    return NewBatch(file.tenant, {"subject": "ann"}, "/v1/completions", file.id, NOW + DAY)


@pytest.fixture
def stores(database_url: str, tmp_path: Path) -> Iterator[Stores]:
    stores = Stores.open(database_url, tmp_path / "state")
    yield stores
    stores.close()
