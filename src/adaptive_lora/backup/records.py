"""What a backup says of itself: `backups/<id>` in its repository, written last.

The id ends with the beginning of this document's SHA-256, the document holds that of everything else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from adaptive_lora.adapters.sync import Entry, check_path
from adaptive_lora.errors import InvalidRequest

BACKUP_ID: Final = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{3}Z-[0-9a-f]{12}")
Place = Literal["store", "files", "bundles", "learning", "folder"]
"""Adapters that were added (<name>/<version>/<file>), files that callers left (<file id>),
`router.bundle_path`, `router.learning_path`, `adapters.path`."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Piece(_Record):
    """Some rows of a table: gzip of a JSON document a line."""

    entry: Entry
    n_rows: Annotated[int, Field(ge=0)]


class Dump(_Record):
    """The tables, as they were at one moment."""

    schema_revision: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}$")]
    """Alembic's, of the release that made it."""
    registry_revision: int
    access_revision: int
    tables: dict[str, tuple[Piece, ...]]


class Backup(_Record):
    schema_version: Literal[1] = 1
    created_at: AwareDatetime
    """All that was done before is in it."""
    release: str
    """Of Adaptive LoRA."""
    database: Dump
    places: dict[Place, dict[Annotated[str, AfterValidator(check_path)], Entry]]
    missing: tuple[str, ...] = ()
    """What the database names and was nowhere, if that was allowed: <place>/<path>."""
    settings: dict[str, Any]
    """By section, where they differ from the defaults; secrets are left out."""
    secrets: tuple[str, ...]
    """Keys of settings that were set and are not in it."""

    def document(self) -> bytes:
        return self.model_dump_json(indent=1).encode()

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """Everything that it consists of, with a name for messages."""
        for table, pieces in self.database.tables.items():
            for number, piece in enumerate(pieces):
                yield f"database/{table}/{number}", piece.entry
        for place, files in self.places.items():
            for path, entry in files.items():
                yield f"{place}/{path}", entry

    @property
    def n_bytes(self) -> int:
        """Of all its files, however often they are stored."""
        return sum(entry.size for _, entry in self.entries())


class Header(_Record):
    """`repository.json`."""

    schema_version: Literal[1] = 1
    encryption: Literal["none", "aes-256-gcm"]
    key_check: str | None = None

    @classmethod
    def of(cls, key_check: str | None) -> Self:
        return cls(encryption="none" if key_check is None else "aes-256-gcm", key_check=key_check)


def id_of(backup: Backup) -> str:
    """Sorted by time, and bound to the content."""
    moment = backup.created_at.astimezone(UTC)
    ms = moment.microsecond // 1000
    return f"{moment:%Y%m%dT%H%M%S}.{ms:03}Z-{digest_of(backup.document())}"


def digest_of(document: bytes) -> str:
    """What a backup's id ends with."""
    return hashlib.sha256(document).hexdigest()[:12]


def check_id(backup_id: str) -> str:
    """Raises InvalidRequest."""
    if not BACKUP_ID.fullmatch(backup_id):
        raise InvalidRequest(
            f"{backup_id[:80]!r} is no id of a backup, which is like 20261127T030000.000Z-3f9c2a51d07e: "
            "`adaptive-lora backups` lists them"
        )
    return backup_id
