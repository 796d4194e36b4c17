"""Putting a backup back: first the files, each whole or not there, and then the database, in one transaction.

So a restore that is interrupted leaves a database as it was, and files that nothing names; run again, it goes
on with the files that are not there yet. Whatever is there already and differs stops it before it touches
anything.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

from adaptive_lora.adapters.durable import disk_errors, sync
from adaptive_lora.adapters.manifest import read_manifest
from adaptive_lora.adapters.sync import Entry
from adaptive_lora.adapters.transfer import in_parallel
from adaptive_lora.backup.reading import entry_of
from adaptive_lora.backup.records import Backup, Piece, Place
from adaptive_lora.backup.repository import Repository
from adaptive_lora.backup.site import CURRENT, Site, is_log
from adaptive_lora.backup.tables import check_empty, load
from adaptive_lora.errors import Conflict, HashMismatch, SettingsError

JOBS: Final = 4
_KEYS: Final[Mapping[Place, str]] = {
    "bundles": "router.bundle_path",
    "learning": "router.learning_path",
    "folder": "adapters.path",
}


@dataclass(frozen=True, slots=True)
class Restored:
    n_files: int
    """That were not there before."""
    n_bytes: int


def restore(
    site: Site,
    repository: Repository,
    backup: Backup,
    *,
    replace: bool = False,
    progress: Callable[[str], None] = lambda what: None,
) -> Restored:
    """Make the site what was backed up. No gateway may run on it.

    Raises Conflict, before anything is touched, if the database is not empty or a file differs from the
    backup's, unless they are to be replaced; SettingsError if the backup holds files that the settings name
    no folder for; HashMismatch, NotFound if the backup is damaged.
    """
    work = _Restore(site, repository, replace=replace)
    progress("looking at what is here")
    database = site.database()
    try:
        if not replace:
            check_empty(database)
        files = work.missing_files(backup)
        adapters = work.missing_adapters(backup)
        progress(f"restoring {len(adapters)} versions of adapters")
        in_parallel(JOBS, work.adapter, adapters)
        progress(f"restoring {len(backup.places.get('files', {}))} files of callers")
        in_parallel(JOBS, work.content, backup.places.get("files", {}).items())
        progress(f"restoring {len(files)} other files")
        for file in files:  # one after the other: which bundle is served is said when all bundles are there
            work.file(*file)
        progress("loading the database")
        dump = backup.database
        rows = {table: work.pieces(table, pieces) for table, pieces in dump.tables.items()}
        load(database, dump.schema_revision, rows, replace=replace)
    finally:
        database.close()
    return Restored(work.n_files, work.n_bytes)


@dataclass(frozen=True, slots=True)
class _Adapter:
    name: str
    version: str
    files: Mapping[str, Entry]


class _Restore:
    def __init__(self, site: Site, repository: Repository, *, replace: bool) -> None:
        self.n_files = self.n_bytes = 0
        self._count = Lock()
        self._site = site
        self._repository = repository
        self._replace = replace
        self._store, self._contents = site.store(), site.contents()

    def missing_files(self, backup: Backup) -> list[tuple[Path, str, Entry]]:
        """Where what is to be written, of the places whose files have paths of their own; in this order."""
        wanted: list[tuple[Path, str, Entry]] = []
        for place, key in _KEYS.items():
            files = backup.places.get(place, {})
            folder = self._site.folders.get(place)
            if not files:
                continue
            if folder is None:
                raise SettingsError(f"the backup holds files of {key}, which is not set: set it")
            for path in sorted(files, key=_last):
                entry, target = files[path], folder / path
                there = self._there(target)
                if there == entry:
                    continue
                if there is not None and not self._replace:
                    raise Conflict(
                        f"{str(target)!r} differs from the backup's: move it away, or give --replace"
                    )
                wanted.append((target, f"{place}/{path}", entry))
        return wanted

    def missing_adapters(self, backup: Backup) -> list[_Adapter]:
        """Versions that are to be written; and mirrored, if they are here."""
        versions: dict[tuple[str, str], dict[str, Entry]] = {}
        for path, entry in backup.places.get("store", {}).items():
            name, version, file = path.split("/")
            versions.setdefault((name, version), {})[file] = entry
        for (name, version), files in versions.items():
            folder = self._store.path_of(name, version)
            differs = folder.is_dir() and any(self._there(folder / f) != entry for f, entry in files.items())
            if differs and not self._replace:
                raise Conflict(f"{str(folder)!r} is damaged: move it away, or give --replace")
            if differs:
                self._store.remove(name, version)
        return [_Adapter(name, version, files) for (name, version), files in versions.items()]

    def adapter(self, adapter: _Adapter) -> None:
        name, version = adapter.name, adapter.version
        if not self._store.has(name, version):
            with self._store.staging() as scratch:
                for file, entry in adapter.files.items():
                    self._write(scratch / file, f"store/{name}/{version}/{file}", entry)
                manifest = read_manifest(scratch)
                if (manifest.name, manifest.version) != (name, version):
                    raise HashMismatch(f"what the backup holds as {name}@{version} is another adapter")
                self._store.install(scratch, name, version)
        self._store.mirror(name, version)

    def content(self, file: tuple[str, Entry]) -> None:
        file_id, entry = file
        if self._site.storage_url is None and self._contents.is_here(file_id, entry.size):
            return
        with self._contents.draft() as draft:
            self._write(draft, f"files/{file_id}", entry)
            self._contents.put(draft, file_id)

    def file(self, target: Path, what: str, entry: Entry) -> None:
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".restore-")
        os.close(descriptor)
        draft = Path(name)
        try:
            self._write(draft, what, entry)
            with disk_errors(target):
                draft.chmod(0o644)
                sync(draft)
                draft.replace(target)
                sync(target.parent)
        finally:
            draft.unlink(missing_ok=True)

    def pieces(self, table: str, pieces: tuple[Piece, ...]) -> Iterator[bytes]:
        for number, piece in enumerate(pieces):
            yield b"".join(self._repository.read(piece.entry, f"database/{table}/{number}"))

    def _write(self, file: Path, what: str, entry: Entry) -> None:
        with disk_errors(file), file.open("wb") as out:
            for piece in self._repository.read(entry, what):
                out.write(piece)
        with self._count:
            self.n_files += 1
            self.n_bytes += entry.size

    def _there(self, file: Path) -> Entry | None:
        try:
            return entry_of(file)
        except FileNotFoundError:
            return None


def _last(path: str) -> tuple[int, str]:
    """Bundles and adapters before their history, and that before which bundle is served."""
    return (2 if path == CURRENT else 1 if is_log(path) else 0, path)
