"""What is backed up: where a gateway keeps its state, and which files of its folders count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from adaptive_lora.adapters.durable import disk_errors
from adaptive_lora.adapters.registry_database import Database
from adaptive_lora.adapters.store import Store
from adaptive_lora.backup.records import Place
from adaptive_lora.batches.contents import Contents

DATABASE_TIMEOUT_S: Final = 30.0
CURRENT: Final = "CURRENT"
"""Of router bundles: which of them is served."""


@dataclass(frozen=True, slots=True)
class Site:
    """As settings say it; nothing is opened yet."""

    database_url: str = field(repr=False)
    state: Path
    storage_url: str | None = None
    folders: Mapping[Place, Path] = field(default_factory=dict)
    """Of the places whose files have paths of their own: bundles, learning, folder."""

    def database(self) -> Database:
        return Database(self.database_url, timeout_s=DATABASE_TIMEOUT_S)

    def store(self) -> Store:
        return Store(self.state, self.storage_url)

    def contents(self) -> Contents:
        return Contents(self.state, self.storage_url)


def files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Regular files by their path from `folder`, sorted; nothing hidden (drafts, locks), no links, which are
    not served either."""
    with disk_errors(folder):
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            name = path.relative_to(folder).as_posix()
            is_hidden = any(part.startswith(".") for part in name.split("/"))
            if not is_hidden and not path.is_symlink() and path.is_file():
                yield name, path


def is_log(path: str) -> bool:
    """Whether lines are added to it while it is read: history, choices, rewards."""
    return path.endswith(".jsonl") and "/" not in path
