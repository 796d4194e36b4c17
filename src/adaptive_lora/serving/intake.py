"""Adapters from outside, into a folder of the store: fetched from a source, or received as an archive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.exceptions import HTTPException

from adaptive_lora.adapters.durable import disk_errors
from adaptive_lora.adapters.files import Limits
from adaptive_lora.serving.limits import BODY_READ_TIMEOUT_S, MIN_UPLOAD_BYTES_PER_S
from adaptive_lora.settings import StorageSettings

ARCHIVE_TYPES = ("application/x-tar", "application/gzip", "application/zip", "application/octet-stream")


def fetch(source: str, folder: Path, storage: StorageSettings) -> str:
    """Fill the empty `folder` from `source`. Returns the source, pinned to what was fetched. Blocking.

    Raises SourceNotAllowed, UnsafeArchive beyond the limits, StorageUnavailable, StorageFull.
    """
    from adaptive_lora.adapters.sources import fetch_source

    return fetch_source(source, folder, allowed=storage.allowed_sources, limits=_limits(storage))


def unpack(archive: Path, folder: Path, storage: StorageSettings) -> None:
    """Extract a received archive into the empty `folder`, and remove it. Blocking. Raises UnsafeArchive."""
    from adaptive_lora.adapters.archive import extract

    with archive.open("rb") as file:
        extract(file, folder, limits=_limits(storage))
    archive.unlink()


async def receive(chunks: AsyncIterator[bytes], path: Path, *, max_bytes: int) -> None:
    """Write a request's body to `path`, piece by piece. 413 past `max_bytes`, 408 if the sender stalls or
    is too slow."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    n_bytes = 0
    with disk_errors(path), path.open("wb") as file:
        while True:
            slowest = started + n_bytes / MIN_UPLOAD_BYTES_PER_S
            try:
                async with asyncio.timeout_at(min(loop.time(), slowest) + BODY_READ_TIMEOUT_S):
                    chunk = await anext(chunks, None)
            except TimeoutError:
                raise HTTPException(
                    408,
                    f"the archive stalled for {BODY_READ_TIMEOUT_S:g} s, or came with less than "
                    f"{MIN_UPLOAD_BYTES_PER_S / 1000:g} kB a second",
                ) from None
            if chunk is None:
                return
            n_bytes += len(chunk)
            if n_bytes > max_bytes:
                raise HTTPException(
                    413, f"the archive is larger than {max_bytes} bytes (storage.max_archive_bytes)"
                )
            await asyncio.to_thread(file.write, chunk)


def _limits(storage: StorageSettings) -> Limits:
    return Limits(storage.max_archive_bytes, storage.max_archive_entries)
