"""What is in the files: on this host's disk, and in object storage for other hosts.

    <path>/files/<file id>          whole from the moment it appears
    <path>/files/.draft-*           work in progress; swept a day after its last write
    <url>/_files/<file id>          the same in object storage; no adapter can have that name

With `url` every gateway reads every file: what is not here is fetched, once. Without it a file is where it
was received, and gateways that share its records have to share the folder, too.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from adaptive_lora.adapters.durable import disk_errors, sync
from adaptive_lora.adapters.object_storage import ObjectFolder
from adaptive_lora.errors import StorageUnavailable

_ID: Final = re.compile(r"file-[0-9a-f]{32}")
_DRAFT: Final = ".draft-"
PIECE_BYTES: Final = 8 << 20
OLD_S: Final = 86_400.0


class Contents:
    """Blocks on disk and network. Raises StorageError, StorageFull or StorageUnavailable where those fail."""

    def __init__(self, path: Path, url: str | None = None) -> None:
        """Creates `path` if need be. `url` is not asked yet."""
        self._folder = path.absolute() / "files"
        self._objects = None if url is None else ObjectFolder.at(f"{url.rstrip('/')}/_files")
        with disk_errors(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def draft(self) -> Iterator[Path]:
        """A new empty file beside the others, private, which is gone at the end unless it was put."""
        with disk_errors(self._folder):
            descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=_DRAFT)
        os.close(descriptor)
        path = Path(name)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def put(self, draft: Path, file_id: str) -> None:
        """The draft becomes the file's content, for good."""
        path = self._path(file_id)
        with disk_errors(path):
            sync(draft)
            draft.replace(path)
            sync(self._folder)
        if self._objects is not None:
            try:
                self._objects.upload(path, file_id)
            except BaseException:
                path.unlink(missing_ok=True)
                raise

    def can_read(self, file_id: str) -> bool:
        """Whether it is here, or in object storage, as all are that were received while that is set."""
        return self._objects is not None or self._path(file_id).is_file()

    def is_here(self, file_id: str, size_bytes: int) -> bool:
        """Whether this disk has it."""
        try:
            return self._path(file_id).stat().st_size == size_bytes
        except FileNotFoundError:
            return False

    def fetch(self, file_id: str, size_bytes: int) -> Path:
        """Where its content is on this disk. Raises StorageUnavailable if it is on another host's."""
        path = self._path(file_id)
        if path.is_file():
            return path
        if self._objects is None:
            raise StorageUnavailable(
                "the file's content is on another gateway's disk: set storage.url, so that they share files"
            )
        with self.draft() as draft, disk_errors(path):
            with draft.open("wb") as out:
                for start in range(0, size_bytes, PIECE_BYTES):
                    out.write(self._objects.read(file_id, start, min(start + PIECE_BYTES, size_bytes)))
            sync(draft)
            draft.replace(path)
            sync(self._folder)
        return path

    def delete(self, file_id: str) -> None:
        """Nothing happens if it is gone."""
        with disk_errors(self._folder):
            self._path(file_id).unlink(missing_ok=True)
        if self._objects is not None:
            self._objects.delete(file_id)

    def old_copies(self) -> tuple[str, ...]:
        """Ids of contents on this disk that were put here more than a day ago. Removes old drafts."""
        found = []
        oldest = time.time() - OLD_S
        with disk_errors(self._folder):
            for path in self._folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime > oldest:
                        continue
                    if path.name.startswith(_DRAFT):
                        path.unlink()
                    elif _ID.fullmatch(path.name):
                        found.append(path.name)
        return tuple(found)

    def drop_copy(self, file_id: str) -> None:
        """Remove it from this disk alone."""
        self._path(file_id).unlink(missing_ok=True)

    def _path(self, file_id: str) -> Path:
        if not _ID.fullmatch(file_id):
            raise ValueError(f"{file_id!r} is no id of a file")
        return self._folder / file_id
