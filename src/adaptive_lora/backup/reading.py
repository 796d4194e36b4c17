"""Reading files that others may change or remove meanwhile."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from adaptive_lora.adapters.sync import Entry
from adaptive_lora.errors import StorageError


def entry_of(file: Path) -> Entry:
    """Raises FileNotFoundError."""
    digest, n_bytes = hashlib.sha256(), 0
    for piece in pieces_of(file):
        digest.update(piece)
        n_bytes += len(piece)
    return Entry(sha256=digest.hexdigest(), size=n_bytes)


def pieces_of(file: Path) -> Iterator[bytes]:
    """Never through a link. Raises FileNotFoundError."""
    with os.fdopen(_opened(file), "rb") as source:
        while piece := source.read(1 << 20):
            yield piece


def is_unchanged(file: Path, before: os.stat_result) -> bool:
    """Whether what was read since `before` is one state of the file."""
    try:
        now = file.lstat()
    except FileNotFoundError:
        return True  # removed, which changed nothing of what was read
    return (now.st_ino, now.st_size, now.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)


def _opened(file: Path) -> int:
    try:
        return os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"{str(file)!r} cannot be read: {error.strerror}") from error
