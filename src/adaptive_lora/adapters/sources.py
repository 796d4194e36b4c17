"""An adapter from elsewhere: what its manifest lists, and nothing else, into an empty folder of ours.

The manifest comes first and says which files there are and what their hashes must be. So a repository or
bucket may hold whatever it likes beside them (checkpoints, optimiser states, pickles): it is not even
downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from adaptive_lora.adapters.files import Limits, open_regular
from adaptive_lora.adapters.hub import HubRepo
from adaptive_lora.adapters.locations import Location, check_allowed, parse_location
from adaptive_lora.adapters.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, read_manifest
from adaptive_lora.adapters.object_storage import ObjectFolder
from adaptive_lora.adapters.transfer import Checksum, Source, download
from adaptive_lora.errors import ManifestInvalid, NotFound, StorageError, UnsafeArchive


def fetch_source(uri: str, destination: Path, *, allowed: Sequence[str], limits: Limits) -> str:
    """Fill the empty folder `destination` with the adapter at `uri`, and return the source, pinned.

    Of hf:// the pinned source names the commit. The files have their manifest's hashes; everything else about
    them is for `verify_adapter`. Raises InvalidRequest, SourceNotAllowed, NotFound, ManifestInvalid,
    HashMismatch, UnsafeArchive beyond the limits, StorageUnavailable, StorageFull; then `destination` is left
    empty.
    """
    location = parse_location(uri)
    check_allowed(location, allowed)
    if any(destination.iterdir()):
        raise ValueError(f"{destination} is not empty")
    try:
        source, pinned = _open(location)
        _fetch(source, destination, str(pinned), limits)
    except BaseException:
        for path in destination.iterdir():
            path.unlink()
        raise
    return str(pinned)


def _open(location: Location) -> tuple[Source, Location]:
    if location.scheme == "file":
        return _LocalFolder(location.path), location
    if location.scheme == "hf":
        organisation, repository, *path = location.segments
        repo = HubRepo(f"{organisation}/{repository}", location.revision, "/".join(path))
        return repo, replace(location, revision=repo.commit)
    return ObjectFolder(location), location


def _fetch(source: Source, destination: Path, shown: str, limits: Limits) -> None:
    try:
        size = source.size_of(MANIFEST_NAME)
    except NotFound as error:
        raise ManifestInvalid(
            f"{shown} holds no {MANIFEST_NAME}: give the folder of one adapter, with the manifest that "
            "write_manifest makes"
        ) from error
    left = min(limits.max_bytes, MAX_MANIFEST_BYTES)
    if size > left:
        raise UnsafeArchive(f"{shown}/{MANIFEST_NAME} is larger than {left:,} bytes")
    download(source, MANIFEST_NAME, destination / MANIFEST_NAME, size=size, checksum=None)
    files = read_manifest(destination).files
    if len(files) + 1 > limits.max_files:
        raise UnsafeArchive(
            f"{shown} has more than {limits.max_files} files: raise storage.max_archive_entries"
        )
    sizes = {name: source.size_of(name) for name in files}
    if size + sum(sizes.values()) > limits.max_bytes:
        raise UnsafeArchive(
            f"{shown} is larger than {limits.max_bytes:,} bytes: raise storage.max_archive_bytes"
        )
    for name, sha256 in files.items():
        checksum = Checksum("sha256", sha256)
        download(source, name, destination / name, size=sizes[name], checksum=checksum)


class _LocalFolder:
    """A `Source` on this machine's disk; no link is followed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def size_of(self, name: str) -> int:
        if not os.path.lexists(self._folder / name):
            raise NotFound(f"{str(self._folder / name)!r} does not exist")
        with open_regular(self._folder / name) as file:
            return os.fstat(file.fileno()).st_size

    def read(self, name: str, start: int, end: int) -> bytes:
        with open_regular(self._folder / name) as file:
            file.seek(start)
            content = file.read(end - start)
        if len(content) != end - start:
            raise StorageError(f"{str(self._folder / name)!r} was cut while it was read: try again")
        return content
