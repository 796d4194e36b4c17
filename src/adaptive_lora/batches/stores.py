"""Everything that this room keeps, opened together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from adaptive_lora.adapters.registry_database import Database
from adaptive_lora.adapters.registry_schema import open_database
from adaptive_lora.batches.batch_store import BatchStore
from adaptive_lora.batches.contents import Contents
from adaptive_lora.batches.file_store import FileStore
from adaptive_lora.batches.run_store import RunStore


@dataclass(frozen=True, slots=True)
class Stores:
    files: FileStore
    batches: BatchStore
    runs: RunStore
    contents: Contents
    database: Database

    @classmethod
    def open(cls, database_url: str, folder: Path, storage_url: str | None = None) -> Self:
        """Records in the registry's database, contents below `folder` and in object storage. Blocks."""
        database = open_database(database_url)
        try:
            contents = Contents(folder, storage_url)
        except BaseException:
            database.close()
            raise
        return cls(FileStore(database), BatchStore(database), RunStore(database), contents, database)

    def close(self) -> None:
        self.database.close()
