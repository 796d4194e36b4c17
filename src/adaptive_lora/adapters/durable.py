"""Writing so that a crash leaves the old or the new, never a half; and what the disk's errors mean."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from adaptive_lora.errors import Conflict, StorageError, StorageFull

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""What errno says then; EDQUOT is a user's share."""


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn an OSError of this machine's disk into StorageFull or StorageError. `where` is named in the
    message."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise StorageFull(
                f"no room left on the disk of {str(where)!r}: make some, then try again"
            ) from error
        raise StorageError(f"{str(where)!r} cannot be used: {error.strerror or error}") from error


@contextlib.contextmanager
def only_one(lock: Path, what: str) -> Iterator[None]:
    """Hold the lock file `lock`. Raises Conflict if another process does; one that has died does not.

    It may be removed while it is held.
    """
    with disk_errors(lock):
        file = lock.open("a")
    with file:
        if not try_lock(file.fileno()) or not _is_still(lock, file.fileno()):
            raise Conflict(f"{what} is running already: wait for it to end")
        yield


def try_lock(descriptor: int) -> bool:
    """Take the lock of an open file, for as long as it is open. False if another holder has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether `path` is the open file, and not one that was made after that was removed."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def write_whole(path: Path, content: bytes) -> None:
    """Temp file, fsync, rename, fsync of the folder: a reader or a crash sees the old file or the new one."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """fsync of a file or a folder: what was written or renamed before it survives a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
