"""Making a backup while requests are served and the fleet changes: one moment of everything.

First the database, in one transaction; then the files that it names, which never change. A file that has been
deleted since is named no longer: then the database is read again, and so on until all that it names is there.
What the backup before this one holds of immutable files is not read again.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Final

from adaptive_lora import __version__
from adaptive_lora.adapters.durable import disk_errors
from adaptive_lora.adapters.files import list_files
from adaptive_lora.adapters.manifest import read_manifest
from adaptive_lora.adapters.store import Store
from adaptive_lora.adapters.sync import Entry
from adaptive_lora.adapters.transfer import in_parallel
from adaptive_lora.backup.reading import pieces_of
from adaptive_lora.backup.records import Backup, Dump, Piece, Place
from adaptive_lora.backup.repository import Repository
from adaptive_lora.backup.site import CURRENT, Site, files_below, is_log
from adaptive_lora.backup.tables import Dumped, dump
from adaptive_lora.batches.contents import Contents
from adaptive_lora.errors import AdapterError, Conflict, HashMismatch, NotFound, StorageError

_log = logging.getLogger(__name__)

ROUNDS: Final = 10
JOBS: Final = 4

Files = Mapping[Place, dict[str, Entry]]


@dataclass(frozen=True, slots=True)
class Made:
    backup_id: str
    backup: Backup
    n_new_bytes: int
    """That went over."""


@dataclass(slots=True)
class _Copied:
    """What is in the repository of one round, and what was nowhere."""

    places: dict[Place, dict[str, Entry]]
    missing: set[str] = field(default_factory=set)


def make(
    site: Site,
    repository: Repository,
    *,
    settings: Mapping[str, Any],
    secrets: tuple[str, ...] = (),
    allow_missing: bool = False,
    progress: Callable[[str], None] = lambda what: None,
) -> Made:
    """Back the site up. Raises StorageError if a file that the database names is nowhere, or is damaged,
    unless that is allowed; Conflict if the site changes faster than it can be read."""
    with repository.writing(), tempfile.TemporaryDirectory(prefix="adaptive-lora-backup-") as scratch:
        repository.look()
        run = _Run(site, repository, Path(scratch), progress)
        dumped, copied = run.consistent()
        if copied.missing and not allow_missing:
            some = ", ".join(sorted(copied.missing)[:5])
            raise StorageError(
                f"{len(copied.missing)} that the database names are not here, or damaged: {some}; put them "
                "back, run this where they are, or go on without them (--allow-missing)"
            )
        progress("writing the backup")
        backup = Backup(
            created_at=dumped.moment,
            release=__version__,
            database=run.put_tables(dumped),
            places={place: dict(sorted(files.items())) for place, files in copied.places.items()},
            missing=tuple(sorted(copied.missing)),
            settings=dict(settings),
            secrets=secrets,
        )
        backup_id = repository.publish(backup)
    return Made(backup_id, backup, run.n_new_bytes)


class _Run:
    def __init__(
        self, site: Site, repository: Repository, scratch: Path, progress: Callable[[str], None]
    ) -> None:
        self.n_new_bytes = 0
        self._site = site
        self._repository = repository
        self._progress = progress
        self._known = _known(repository)
        self._count = Lock()
        self._scratch = scratch

    def consistent(self) -> tuple[Dumped, _Copied]:
        """The database at one moment, and all that it names. The dump lies in the run's scratch folder."""
        database, store, contents = self._site.database(), self._site.store(), self._site.contents()
        missing: set[str] = set()
        try:
            for number in range(ROUNDS):
                self._progress("reading the database")
                scratch = self._scratch / str(number)
                with disk_errors(scratch):
                    scratch.mkdir()
                moving = dict(self._moving(scratch))
                dumped = dump(database, scratch / "database")
                if not self._is_still_current(moving):
                    continue
                copied = self._copy(dumped, moving, store, contents)
                if copied.missing <= missing:  # the database has been asked again, and still names them
                    return dumped, copied
                missing = copied.missing
        finally:
            database.close()
        raise Conflict(f"files have gone {ROUNDS} times while they were read: try again when less changes")

    def put_tables(self, dumped: Dumped) -> Dump:
        tables = {
            table: tuple(Piece(entry=self._put(path), n_rows=n_rows) for path, n_rows in pieces)
            for table, pieces in dumped.pieces.items()
        }
        return Dump(
            schema_revision=dumped.schema_revision,
            registry_revision=dumped.registry_revision,
            access_revision=dumped.access_revision,
            tables=tables,
        )

    def _moving(self, scratch: Path) -> Iterator[tuple[tuple[Place, str], Path]]:
        """Copies of what changes in place: logs up to their last whole line, and which bundle is served.
        Taken before the database, so that no log tells of what the database does not know."""
        for place, folder in self._site.folders.items():
            for path, file in files_below(folder):
                if place != "folder" and (is_log(path) or path == CURRENT):
                    content = b"".join(pieces_of(file))
                    copy = scratch / f"{place}-{path}"
                    with disk_errors(copy):
                        copy.write_bytes(content[: content.rfind(b"\n") + 1])
                    yield (place, path), copy

    def _is_still_current(self, moving: Mapping[tuple[Place, str], Path]) -> bool:
        """Whether the bundle that was served before the database was read is it still: they move together."""
        if "bundles" not in self._site.folders:
            return True
        now = self._site.folders["bundles"] / CURRENT
        copy = moving.get(("bundles", CURRENT))
        if copy is None:
            return not now.exists()
        return now.exists() and copy.read_bytes() == now.read_bytes()

    def _copy(
        self, dumped: Dumped, moving: Mapping[tuple[Place, str], Path], store: Store, contents: Contents
    ) -> _Copied:
        copied = _Copied({place: {} for place in ("store", "files", *self._site.folders)})
        tasks: list[Callable[[], None]] = []
        for name, version in dumped.adapters:
            tasks.append(partial(self._copy_adapter, store, name, version, copied))
        for file_id, size in dumped.files:
            tasks.append(partial(self._copy_content, contents, file_id, size, copied))
        for place, folder in self._site.folders.items():
            for path, file in files_below(folder):
                source = moving.get((place, path))
                if source is None and place != "folder" and (is_log(path) or path == CURRENT):
                    continue  # it has come since
                tasks.append(partial(self._copy_file, place, path, source or file, copied))
        if "folder" in self._site.folders and not self._site.folders["folder"].is_dir():
            copied.missing.add("folder")  # a server would not start without it
        self._progress(f"copying {len(tasks)} adapters and files")
        in_parallel(JOBS, lambda task: task(), tasks)
        return copied

    def _copy_adapter(self, store: Store, name: str, version: str, copied: _Copied) -> None:
        prefix = f"{name}/{version}/"
        known = {path: entry for path, entry in self._known["store"].items() if path.startswith(prefix)}
        if known and all(map(self._repository.has, known.values())):
            copied.places["store"].update(known)
            return
        with self._or_missing(f"store/{name}/{version}", copied):
            folder = store.fetch(name, version)
            wanted = read_manifest(folder).files
            entries = {file.name: self._put(file) for file in list_files(folder)}
            for file, sha256 in wanted.items():
                if file not in entries or entries[file].sha256 != sha256:
                    raise HashMismatch(f"{file} differs from its SHA-256 in the adapter's manifest")
            copied.places["store"].update({prefix + file: entry for file, entry in entries.items()})

    def _copy_content(self, contents: Contents, file_id: str, size: int, copied: _Copied) -> None:
        entry = self._known["files"].get(file_id)
        if entry is not None and self._repository.has(entry):
            copied.places["files"][file_id] = entry
            return
        with self._or_missing(f"files/{file_id}", copied):
            if not contents.can_read(file_id):
                raise NotFound("its content is not on this disk, and storage.url is not set")
            copied.places["files"][file_id] = self._put(contents.fetch(file_id, size))

    def _copy_file(self, place: Place, path: str, file: Path, copied: _Copied) -> None:
        try:
            copied.places[place][path] = self._put(file)
        except FileNotFoundError:
            return  # removed meanwhile: the database names none of these

    @contextmanager
    def _or_missing(self, what: str, copied: _Copied) -> Iterator[None]:
        try:
            yield
        except (NotFound, AdapterError, FileNotFoundError) as error:
            _log.warning("%s: %s", what, error)
            copied.missing.add(what)

    def _put(self, file: Path) -> Entry:
        entry, n_bytes = self._repository.put(file)
        with self._count:
            self.n_new_bytes += n_bytes
        return entry


def _known(repository: Repository) -> Files:
    """What the newest backup holds of files that never change."""
    for backup_id in repository.ids():
        try:
            _, backup = repository.load(backup_id)
        except HashMismatch as error:
            _log.warning("%s", error.message)
            continue
        return {"store": backup.places.get("store", {}), "files": backup.places.get("files", {})}
    return {"store": {}, "files": {}}
