"""Reading a backup back: every content against its hash, every table against its number of rows."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from adaptive_lora.adapters.transfer import in_parallel
from adaptive_lora.backup.records import Backup
from adaptive_lora.backup.repository import Repository
from adaptive_lora.errors import HashMismatch, NotFound

_JOBS = 4


@dataclass(frozen=True, slots=True)
class Verified:
    n_files: int
    n_bytes: int
    damaged: tuple[str, ...]
    """A line about each content that is not what it should be, or gone."""


def verify(
    repository: Repository, backup: Backup, *, progress: Callable[[int], None] = lambda n_bytes: None
) -> Verified:
    """Read the whole backup. What is damaged is told, not raised."""
    damaged: dict[str, str] = {}
    lock = Lock()

    def read(what: str) -> None:
        entry = entries[what]
        try:
            for piece in repository.read(entry, what):
                progress(len(piece))
        except (HashMismatch, NotFound) as error:
            with lock:
                damaged[what] = error.message

    entries = dict(backup.entries())
    in_parallel(_JOBS, read, entries)
    for table, pieces in backup.database.tables.items():
        for number, piece in enumerate(pieces):
            what = f"database/{table}/{number}"
            if what not in damaged and _n_rows(b"".join(repository.read(piece.entry, what))) != piece.n_rows:
                damaged[what] = f"{what} has not the rows that it should have"
    return Verified(
        len(entries), sum(e.size for e in entries.values()), tuple(damaged[w] for w in sorted(damaged))
    )


def _n_rows(piece: bytes) -> int:
    try:
        return gzip.decompress(piece).count(b"\n")
    except (OSError, EOFError, zlib.error):
        return -1
