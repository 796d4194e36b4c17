"""The stores of files and batches, on threads of their own: a database that hangs holds up nobody else."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, TypeVar

from adaptive_lora.batches.stores import Stores
from adaptive_lora.errors import Overloaded
from adaptive_lora.serving import loading
from adaptive_lora.settings import Settings

T = TypeVar("T")

THREADS: Final = 4
MAX_UPLOADS: Final = 16
MAX_UPLOADS_OF_A_TENANT: Final = 4
"""At once: what lies on the disk before it is known whether a tenant has room for it."""
SWEEP_AT_ONCE: Final = 100


def utc_now() -> datetime:
    return datetime.now(UTC)


class Desk:
    """What routes and runner share. Opened by its first use."""

    def __init__(self, settings: Settings, *, clock: Callable[[], datetime] = utc_now) -> None:
        self.settings = settings
        self.now = clock
        self._stores: Stores | None = None
        self._one_opens = threading.Lock()
        self._uploads: Counter[str] = Counter()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="batches")

    async def call(self, work: Callable[[Stores], T]) -> T:
        """`work` with the stores, in a thread. Raises what it raises, and RegistryUnavailable or StorageError
        while the stores cannot be opened."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(self._opened()))

    async def run(self, work: Callable[[], T]) -> T:
        """Anything else that blocks."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    @contextmanager
    def uploading(self, tenant: str) -> Iterator[None]:
        """While a file arrives. Raises Overloaded."""
        if self._uploads[tenant] >= MAX_UPLOADS_OF_A_TENANT or self._uploads.total() >= MAX_UPLOADS:
            raise Overloaded("as many files are being uploaded as may be at once: try again")
        self._uploads[tenant] += 1
        try:
            yield
        finally:
            self._uploads[tenant] -= 1
            self._uploads += Counter()  # without those that have none

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        if self._stores is not None:
            await asyncio.to_thread(self._stores.close)

    def _opened(self) -> Stores:
        with self._one_opens:
            if self._stores is None:
                self._stores = loading.open_batches(self.settings)
            return self._stores


def delete_file(stores: Stores, tenant: str, file_id: str, *, now: datetime) -> None:
    """For its tenant it is gone at once; what fails after that, `sweep` does later. Blocks."""
    stores.files.withdraw(tenant, file_id, now=now)
    stores.contents.delete(file_id)
    stores.files.forget(file_id)


def sweep(stores: Stores, *, now: datetime, ended_before: datetime) -> None:
    """Remove what has had its time: files, batches that ended, and what dead processes left. Blocks."""
    stores.batches.forget_ended(before=ended_before)
    while overdue := stores.files.overdue(now=now, limit=SWEEP_AT_ONCE):
        for file_id in overdue:
            stores.contents.delete(file_id)
            stores.files.forget(file_id)
    copies = stores.contents.old_copies()
    for start in range(0, len(copies), SWEEP_AT_ONCE):
        some = copies[start : start + SWEEP_AT_ONCE]
        for file_id in set(some) - stores.files.known(some):
            stores.contents.drop_copy(file_id)
