"""The adapters that were added: by name and version, immutable, on this host's disk, and mirrored for other
hosts.

    <path>/adapters/<name>/<version>/   a verified adapter's files; complete from the moment it appears
    <path>/staging/<token>/             work in progress of a process that holds <token>.lock
    <url>/<name>/<version>/             the same in object storage; manifest.json arrives last

Several processes may share a folder. A version appears and disappears by one rename; what a dead process has
left in staging is swept by the next that starts.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from adaptive_lora.adapters.durable import disk_errors, sync, try_lock
from adaptive_lora.adapters.files import list_files, open_regular
from adaptive_lora.adapters.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    Manifest,
    check_name,
    read_manifest,
)
from adaptive_lora.adapters.object_storage import ObjectFolder
from adaptive_lora.adapters.transfer import Checksum, download
from adaptive_lora.errors import AdapterError, HashMismatch, NotFound, UnsafeName

_VERSION = re.compile(r"[0-9a-f]{12}")


class Store:
    """Blocks on disk and network. Raises StorageError, StorageFull or StorageUnavailable where those fail,
    and UnsafeName for a name or version outside the grammar."""

    def __init__(self, path: Path, url: str | None = None) -> None:
        """Creates `path` if need be, and removes what dead processes have left there. `url` is not asked
        yet."""
        self._adapters = path.absolute() / "adapters"
        self._staging = path.absolute() / "staging"
        self._mirror = None if url is None else ObjectFolder.at(url)
        with disk_errors(path):
            self._adapters.mkdir(parents=True, exist_ok=True)
            self._staging.mkdir(exist_ok=True)
            self._sweep()

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A new private folder on the store's own file system, removed at the end with what is left in it."""
        folder, lock = self._claim()
        try:
            with disk_errors(folder):
                folder.mkdir(mode=0o700)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_suffix(".lock").unlink(missing_ok=True)
            os.close(lock)

    def path_of(self, name: str, version: str) -> Path:
        """Where that version is, or would be."""
        check_name(name)
        if not _VERSION.fullmatch(version):
            raise UnsafeName(f"{version[:80]!r} is no version of an adapter: 12 hexadecimal digits")
        return self._adapters / name / version

    def has(self, name: str, version: str) -> bool:
        return self.path_of(name, version).is_dir()

    def list(self) -> tuple[tuple[str, str], ...]:
        """(name, version) of each, sorted."""
        with disk_errors(self._adapters):
            found = [(path.parent.name, path.name) for path in self._adapters.glob("*/*")]
        return tuple(sorted(entry for entry in found if _VERSION.fullmatch(entry[1])))

    def install(self, folder: Path, name: str, version: str) -> Path:
        """Keep the verified adapter in `folder`, and return its path. What is there already stays as it is.

        A folder below `staging()` is moved, any other copied.
        """
        target = self.path_of(name, version)
        if target.is_dir():
            return target
        if self._staging not in folder.absolute().parents:
            with self.staging() as scratch:
                with disk_errors(scratch):
                    for path in list_files(folder):
                        with open_regular(path) as source, (scratch / path.name).open("xb") as copy:
                            shutil.copyfileobj(source, copy, 1 << 20)
                return self.install(scratch, name, version)
        with disk_errors(target):
            for path in list_files(folder):
                path.chmod(0o644)
                sync(path)
            folder.chmod(0o755)
            sync(folder)
            target.parent.mkdir(exist_ok=True)
            sync(self._adapters)
            try:
                folder.rename(target)
            except OSError:
                if not target.is_dir():  # else another process has been faster
                    raise
            sync(target.parent)
        return target

    def remove(self, name: str, version: str) -> None:
        """Forget a version here; `unmirror` forgets it in object storage. Nothing happens if it is not
        there."""
        path = self.path_of(name, version)
        with self.staging() as scratch, disk_errors(path):
            try:
                path.rename(scratch / version)
            except FileNotFoundError:
                return
            sync(path.parent)

    def mirror(self, name: str, version: str) -> None:
        """Copy a version to `url`, the manifest last. Nothing happens without `url`, or if it is there."""
        path = self.path_of(name, version)
        if self._mirror is None or self._mirrored(self._mirror, name, version):
            return
        manifest = read_manifest(path)
        for file in sorted(manifest.files):
            self._mirror.upload(path / file, f"{name}/{version}/{file}")
        self._mirror.upload(path / MANIFEST_NAME, f"{name}/{version}/{MANIFEST_NAME}")

    def fetch(self, name: str, version: str) -> Path:
        """The path of a version, downloaded from `url` if it is not here; each file has its manifest's hash.

        Raises NotFound if `url` does not hold the whole of it, HashMismatch if it is damaged there.
        """
        target = self.path_of(name, version)
        if target.is_dir():
            return target
        if self._mirror is None:
            raise NotFound(
                f"{name}@{version} is not on this host, and storage.url names no place to get it from"
            )
        with self.staging() as scratch:
            _download_manifest(self._mirror, name, version, scratch)
            manifest = read_manifest(scratch)
            _check_identity(manifest, name, version)
            for file, sha256 in manifest.files.items():
                remote = f"{name}/{version}/{file}"
                download(
                    self._mirror,
                    remote,
                    scratch / file,
                    size=self._mirror.size_of(remote),
                    checksum=Checksum("sha256", sha256),
                )
            return self.install(scratch, name, version)

    def unmirror(self, name: str, version: str) -> None:
        """Delete a version at `url`, the manifest first. Nothing happens without `url`."""
        self.path_of(name, version)  # only for its check of the name
        if self._mirror is None:
            return
        prefix = f"{name}/{version}/"
        self._mirror.delete(prefix + MANIFEST_NAME)
        for file in self._mirror.list():
            if file.startswith(prefix):
                self._mirror.delete(file)

    def _mirrored(self, mirror: ObjectFolder, name: str, version: str) -> bool:
        """Whether object storage holds the whole version: a readable manifest that is its own."""
        with self.staging() as scratch:
            try:
                _download_manifest(mirror, name, version, scratch)
                _check_identity(read_manifest(scratch), name, version)
            except (NotFound, AdapterError):
                return False
        return True

    def _claim(self) -> tuple[Path, int]:
        """A new name in staging, and a lock on it that ends with this process."""
        while True:
            folder = self._staging / secrets.token_hex(8)
            lock = folder.with_suffix(".lock")
            with disk_errors(folder):
                descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            if try_lock(descriptor) and lock.exists():
                return folder, descriptor
            os.close(descriptor)  # swept by another process between two lines: as if it had never been

    def _sweep(self) -> None:
        for lock in self._staging.glob("*.lock"):
            try:
                descriptor = os.open(lock, os.O_WRONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                if try_lock(descriptor):  # Its process is gone.
                    with contextlib.suppress(FileNotFoundError):
                        shutil.rmtree(lock.with_suffix(""))
                    lock.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


def _check_identity(manifest: Manifest, name: str, version: str) -> None:
    if (manifest.name, manifest.version) != (name, version):
        raise HashMismatch(
            f"what lies in storage as {name}@{version} calls itself {manifest.name}@{manifest.version}: "
            "delete it there, and mirror it again"
        )


def _download_manifest(mirror: ObjectFolder, name: str, version: str, to: Path) -> None:
    remote = f"{name}/{version}/{MANIFEST_NAME}"
    size = min(mirror.size_of(remote), MAX_MANIFEST_BYTES + 1)
    download(mirror, remote, to / MANIFEST_NAME, size=size, checksum=None)
