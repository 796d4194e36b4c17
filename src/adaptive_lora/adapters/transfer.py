"""One file from somewhere to this disk: in pieces, resumable, checked by its hash, whole or not there.

Whatever it is read from gives ranges of bytes; so an interrupted download goes on where it stopped, memory
stays bounded, and no server can send more than was asked for.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from adaptive_lora.adapters.durable import disk_errors
from adaptive_lora.errors import AdaptiveLoraError, HashMismatch, StorageUnavailable

PIECE_BYTES = 8 << 20
ATTEMPTS = 5
FIRST_WAIT_S = 0.2
MAX_WAIT_S = 5.0

Answer = TypeVar("Answer")
Item = TypeVar("Item")


class Source(Protocol):
    """A folder somewhere."""

    def size_of(self, name: str) -> int:
        """Bytes of the file `name`, a relative path with "/". Raises NotFound, StorageError."""
        ...

    def read(self, name: str, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`, all of them. Raises NotFound, StorageError."""
        ...


@dataclass(frozen=True, slots=True)
class Checksum:
    kind: Literal["sha256", "git-sha1"]
    """A git blob's SHA-1 is what the Hugging Face hub tells of small files."""
    hex: str

    def start(self, size: int) -> Any:
        """A running hash, to be fed `size` bytes."""
        if self.kind == "sha256":
            return hashlib.sha256()
        return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)


def download(
    source: Source,
    name: str,
    to: Path,
    *,
    size: int,
    checksum: Checksum | None,
    progress: Callable[[int], None] = lambda n_bytes: None,
) -> None:
    """Fill `to`, which may hold the beginning already, with the `size` bytes of `name`; sync it.

    `progress` is told of bytes as they arrive; of what was there, too. Raises HashMismatch, and then removes
    `to`; NotFound, StorageError, StorageFull, and then leaves in `to` what has arrived.
    """
    resumed = _fill(source, name, to, size, checksum, progress)
    if resumed is None:
        return
    to.unlink()
    if resumed:  # What was there may have been of another file: once more from the start.
        progress(-size)
        if _fill(source, name, to, size, checksum, progress) is None:
            return
        to.unlink()
    raise HashMismatch(
        f"{name} has arrived with other content than its checksum says: it was damaged, or replaced in the "
        "meantime; publish it again"
    )


def _fill(
    source: Source,
    name: str,
    to: Path,
    size: int,
    checksum: Checksum | None,
    progress: Callable[[int], None],
) -> bool | None:
    """None if the content is right; else whether its beginning was there before."""
    digest = None if checksum is None else checksum.start(size)
    with disk_errors(to), to.open("ab+") as file:
        if file.tell() > size:
            file.truncate(0)
        file.seek(0)
        position = 0
        while piece := file.read(PIECE_BYTES):
            if digest is not None:
                digest.update(piece)
            position += len(piece)
        resumed = position > 0
        progress(position)
        while position < size:
            piece = source.read(name, position, min(position + PIECE_BYTES, size))
            file.write(piece)
            if digest is not None:
                digest.update(piece)
            position += len(piece)
            progress(len(piece))
        file.flush()
        os.fsync(file.fileno())
    is_right = digest is None or checksum is None or digest.hexdigest() == checksum.hex
    return None if is_right else resumed


def in_parallel(jobs: int, action: Callable[[Item], None], items: Iterable[Item]) -> None:
    """Do `action` with each item, at most `jobs` at once. The first error is raised when what runs has ended;
    what has not begun is left out."""
    pool = ThreadPoolExecutor(jobs)
    try:
        for done in as_completed([pool.submit(action, item) for item in items]):
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def with_retries(
    what: str, action: Callable[[], Answer], translate: Callable[[Exception], Exception | None]
) -> Answer:
    """The answer of `action`, tried up to five times with growing waits.

    `translate` gives the error to raise at once, or None for one that may pass. Raises StorageUnavailable
    that says `what` did not work.
    """
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except AdaptiveLoraError:
            raise
        # Every vendor's SDK has errors of its own, and which of them may pass is for `translate` to say.
        except Exception as error:
            final = translate(error)
            if final is not None:
                raise final from error
            last = error
        if attempt < ATTEMPTS - 1:
            time.sleep(min(MAX_WAIT_S, FIRST_WAIT_S * 2**attempt) * random.uniform(0.5, 1.0))
    # What follows a "?" may be a signature.
    reason = (str(last).splitlines() or [""])[0].partition("?")[0][:200]
    kind = type(last).__name__ + (f": {reason}" if reason else "")
    raise StorageUnavailable(f"{what} failed {ATTEMPTS} times ({kind}): try again later") from last
