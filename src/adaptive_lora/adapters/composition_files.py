"""Compositions on disk: built once, shared by the processes of a machine, at most so many.

    <folder>/<composition_key>/     a composition, written by `compose`

Who uses a composition holds a shared lock on its folder (flock, which ends with the process); who removes one
needs the exclusive lock. So nobody loses the files under a running engine.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from adaptive_lora.adapters.compose import (
    Composed,
    Method,
    Parts,
    compose,
    composition_key,
    part_ids,
    read_composed,
)
from adaptive_lora.errors import AdapterError, Conflict
from adaptive_lora.types import AdapterVersion

_log = logging.getLogger(__name__)

STALE_S = 86_400.0
"""After which an unfinished folder was left by a process that died."""


@dataclass(frozen=True, slots=True)
class Held:
    """A composition whose files stay until `release`."""

    key: str
    composed: Composed
    lock: int
    """An open descriptor."""

    @property
    def version(self) -> AdapterVersion:
        return self.composed.version

    def release(self) -> None:
        os.close(self.lock)


class CompositionFiles:
    """All methods block, and may be called from any thread."""

    def __init__(
        self,
        folder: Path,
        *,
        max_rank: int,
        capacity: int,
        method: Method = "cat",
        density: float = 0.5,
        seed: int = 0,
    ) -> None:
        """`capacity`: how many are kept on disk when nobody uses them. The rest is as for `compose`."""
        self._folder = folder
        self._max_rank = max_rank
        self._capacity = capacity
        self._method = method
        self._density = density
        self._seed = seed

    def key(self, parts: Parts) -> str:
        return composition_key(
            parts, max_rank=self._max_rank, method=self._method, density=self._density, seed=self._seed
        )

    def find(self, key: str) -> Held | None:
        """The composition, if it is there and whole. A damaged one is removed."""
        path = self._folder / key
        lock = _lock(path, fcntl.LOCK_SH)
        if lock is None:
            return None
        try:
            composed = read_composed(path, max_rank=self._max_rank)
            os.utime(path)  # it has just been used
        except (AdapterError, OSError, ValueError, KeyError) as error:
            os.close(lock)
            _log.warning("composition %s is damaged and is built again: %s", key, error)
            self.remove(key)
            return None
        except BaseException:
            os.close(lock)
            raise
        return Held(key, composed, lock)

    def build(self, parts: Parts) -> Held:
        """Compose, or find what another process has composed meanwhile. Raises what `compose` raises."""
        key = self.key(parts)
        try:
            compose(
                parts,
                self._folder / key,
                max_rank=self._max_rank,
                method=self._method,
                density=self._density,
                seed=self._seed,
            )
        except Conflict:
            _log.info("composition %s has been built by another process", key)
        held = self.find(key)
        if held is None:
            raise Conflict(f"composition {key} was removed as soon as it was built: try again")
        return held

    def with_part(self, version_id: str) -> list[str]:
        """Keys of the compositions that the version is part of."""
        return [path.name for path in self._paths() if version_id in part_ids(path)]

    def remove(self, key: str) -> bool:
        """Remove a composition, unless somebody uses it."""
        return _remove(self._folder / key)

    def trim(self) -> None:
        """Remove those that were used least recently and are not used now, down to the capacity; and what
        dead processes left."""
        ages = sorted((path.stat().st_mtime, path) for path in self._paths())
        n_left = len(ages)
        for _, path in ages:
            if n_left <= self._capacity:
                break
            n_left -= _remove(path)
        if self._folder.is_dir():
            for path in self._folder.glob(".*"):
                if time.time() - path.stat().st_mtime > STALE_S:
                    shutil.rmtree(path, ignore_errors=True)

    def _paths(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return [path for path in self._folder.iterdir() if not path.name.startswith(".") and path.is_dir()]


def _lock(path: Path, operation: int) -> int | None:
    """A lock on the folder, as an open descriptor; None if it is not there, or (LOCK_NB) somebody else's."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, operation)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)  # somebody holds it, or it was removed while we waited
    return None


def _remove(path: Path) -> bool:
    lock = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if lock is None:
        return False
    try:
        gone = path.rename(path.with_name(f".gone-{uuid.uuid4().hex}"))
        shutil.rmtree(gone)
    finally:
        os.close(lock)
    return True
