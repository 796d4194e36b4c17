"""Where backups lie: a folder on disk or in object storage.

    <url>/repository.json              which encryption, and a mark of the key; written first
    <url>/objects/<2>/<64>             contents, by their hash (encrypted: a keyed hash of it); never changed
    <url>/backups/<id>                 a backup: whole from the moment it appears, since it is written last
    <url>/running/<time>-<token>       while somebody writes one: nothing is cleared away then

A content is stored once, however many backups hold it. Without encryption whoever can write here decides what
is restored; with it only who has the key.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from pydantic import ValidationError

from adaptive_lora.adapters.durable import disk_errors
from adaptive_lora.adapters.object_storage import ObjectFolder
from adaptive_lora.adapters.sync import Entry
from adaptive_lora.adapters.transfer import PIECE_BYTES
from adaptive_lora.backup.cipher import Cipher, encrypted_size, read_key
from adaptive_lora.backup.reading import entry_of, is_unchanged, pieces_of
from adaptive_lora.backup.records import BACKUP_ID, Backup, Header, check_id, digest_of, id_of
from adaptive_lora.errors import Conflict, HashMismatch, NotFound, SettingsError, StorageError

HEADER: Final = "repository.json"
MAX_DOCUMENT_BYTES: Final = 256_000_000
ABANDONED_AFTER: Final = timedelta(days=1)
"""Longer than a backup takes: then whoever began it has died."""
_TIME: Final = "%Y%m%dT%H%M%SZ"


class Repository:
    """Safe to use from several threads. Blocks on disk and network; raises StorageError, StorageFull or
    StorageUnavailable where those fail."""

    def __init__(self, folder: ObjectFolder, cipher: Cipher | None) -> None:
        self.folder = folder
        self._cipher = cipher
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}

    @classmethod
    def open(cls, url: str, key_file: Path | None = None, *, create: bool = False) -> Self:
        """Raises NotFound if there is none, unless it is to be made; SettingsError if it needs another
        key."""
        folder = ObjectFolder.at(url)
        cipher = None if key_file is None else Cipher(read_key(key_file))
        wanted = Header.of(None if cipher is None else cipher.check)
        sizes = folder.list()
        if HEADER in sizes:
            _check_key(_read_header(folder, sizes[HEADER]), wanted)
        elif not create:
            raise NotFound(f"there are no backups at {folder.location}")
        elif sizes:
            raise SettingsError(f"{folder.location} holds other files: give backups a folder of their own")
        else:
            if folder.location.scheme == "file":
                with disk_errors(folder.location.path):
                    folder.location.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.write(HEADER, wanted.model_dump_json().encode())
        repository = cls(folder, cipher)
        repository.look()
        return repository

    def look(self) -> None:
        """Take note of what is there now."""
        sizes = self.folder.list()
        with self._lock:
            self._sizes = sizes

    # Contents

    def has(self, entry: Entry) -> bool:
        """Whether the content is there, as far as its size tells."""
        return self._sizes.get(self.object_name(entry)) == self._stored_size(entry)

    def put(self, file: Path) -> tuple[Entry, int]:
        """Store a file's content, unless it is there. Returns how many bytes went over.

        Raises FileNotFoundError if the file is not there, Conflict if somebody changes it meanwhile.
        """
        before = file.lstat()
        entry = entry_of(file)
        if self.has(entry):
            return entry, 0
        name = self.object_name(entry)
        if self._cipher is None:
            self.folder.upload(file, name)
        else:
            with tempfile.NamedTemporaryFile(prefix="adaptive-lora-backup-") as sealed:
                with disk_errors(Path(sealed.name)):
                    for piece in self._cipher.encrypt(pieces_of(file), name):
                        sealed.write(piece)
                    sealed.flush()
                self.folder.upload(Path(sealed.name), name)
        if not is_unchanged(file, before):  # what lies there may not be what its name says
            self.folder.delete(name)
            raise Conflict(f"{str(file)!r} changes while it is backed up: try again")
        size = self._stored_size(entry)
        with self._lock:
            self._sizes[name] = size
        return entry, size

    def read(self, entry: Entry, what: str) -> Iterator[bytes]:
        """The content, in pieces. They are good only when the last has come: raises HashMismatch after it if
        they differ from their hash, and NotFound if the content is gone; `what` is named in the message."""
        name, size = self.object_name(entry), self._stored_size(entry)
        digest, n_bytes = hashlib.sha256(), 0
        try:
            if self._sizes.get(name, size) == size:  # else there is less to read, or more
                for piece in self._open(name, size):
                    digest.update(piece)
                    n_bytes += len(piece)
                    yield piece
            is_right = (n_bytes, digest.hexdigest()) == (entry.size, entry.sha256)
        except NotFound:
            raise NotFound(f"{what} is gone from the backups: {name}") from None
        except HashMismatch:
            is_right = False
        if not is_right:
            raise HashMismatch(
                f"{what} is damaged in the backups: delete {self.folder.location}/{name}, and back up again, "
                "which stores it anew as long as it is still here"
            )

    def object_name(self, entry: Entry) -> str:
        name = entry.sha256 if self._cipher is None else self._cipher.name_of(entry.sha256)
        return f"objects/{name[:2]}/{name}"

    def _stored_size(self, entry: Entry) -> int:
        return entry.size if self._cipher is None else encrypted_size(entry.size)

    def _open(self, name: str, size: int) -> Iterator[bytes]:
        stored = (
            self.folder.read(name, start, min(start + PIECE_BYTES, size))
            for start in range(0, size, PIECE_BYTES)
        )
        return stored if self._cipher is None else self._cipher.decrypt(stored, name)

    # Backups

    def ids(self) -> tuple[str, ...]:
        """Newest first."""
        names = (name.removeprefix("backups/") for name in self._sizes if name.startswith("backups/"))
        return tuple(sorted((name for name in names if BACKUP_ID.fullmatch(name)), reverse=True))

    def load(self, backup_id: str | None = None) -> tuple[str, Backup]:
        """By default the newest. Raises NotFound; HashMismatch if it is not what was written."""
        if backup_id is None:
            if not self.ids():
                raise NotFound(f"there are no backups at {self.folder.location}")
            backup_id = self.ids()[0]
        name = f"backups/{check_id(backup_id)}"
        size = self._sizes.get(name)
        if size is None:
            raise NotFound(f"there is no backup {backup_id} at {self.folder.location}")
        if size > MAX_DOCUMENT_BYTES:
            raise StorageError(f"backup {backup_id} is larger than {MAX_DOCUMENT_BYTES:,} bytes")
        document = b"".join(self._open(name, size))
        try:
            backup = Backup.model_validate_json(document)
        except ValidationError:
            backup = None
        if backup is None or digest_of(document) != backup_id[-12:]:
            raise HashMismatch(f"backup {backup_id} is damaged: it is not what was written there")
        return backup_id, backup

    def publish(self, backup: Backup) -> str:
        """From now on it is a backup; returns its id. Raises StorageError if a content has gone meanwhile."""
        self.look()
        for what, entry in backup.entries():
            if not self.has(entry):
                raise StorageError(f"{what} has gone from {self.folder.location} meanwhile: back up again")
        backup_id = id_of(backup)
        name, document = f"backups/{backup_id}", backup.document()
        pieces = [document] if self._cipher is None else self._cipher.encrypt([document], name)
        self.folder.write(name, b"".join(pieces))
        self.look()
        return backup_id

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """While a backup is written."""
        mark = f"running/{datetime.now(UTC).strftime(_TIME)}-{secrets.token_hex(6)}"
        self.folder.write(mark, b"")
        try:
            yield
        finally:
            self.folder.delete(mark)

    def others_write(self) -> bool:
        """Whether somebody else writes a backup, as of the last look. Forgets who began a day ago."""
        oldest = (datetime.now(UTC) - ABANDONED_AFTER).strftime(_TIME)
        marks = [name for name in self._sizes if name.startswith("running/")]
        abandoned = [mark for mark in marks if mark.removeprefix("running/") < oldest]
        for mark in abandoned:
            self.folder.delete(mark)
        return len(marks) > len(abandoned)

    def objects(self) -> frozenset[str]:
        """Names of all contents, as of the last look."""
        return frozenset(name for name in self._sizes if name.startswith("objects/"))

    def delete(self, name: str) -> None:
        self.folder.delete(name)
        with self._lock:
            self._sizes.pop(name, None)


def _read_header(folder: ObjectFolder, size: int) -> Header:
    try:
        return Header.model_validate_json(folder.read(HEADER, 0, size))
    except ValidationError as error:
        raise StorageError(
            f"{folder.location}/{HEADER} is damaged, or of a later release: restore it from a copy"
        ) from error


def _check_key(having: Header, wanted: Header) -> None:
    if having == wanted:
        return
    if having.encryption == "none":
        raise SettingsError("these backups are not encrypted: leave out --key-file, or use another address")
    if wanted.encryption == "none":
        raise SettingsError("these backups are encrypted: give --key-file")
    raise SettingsError("these backups are encrypted with another key than that of --key-file")
