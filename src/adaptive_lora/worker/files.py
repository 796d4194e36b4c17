"""An adapter's id to its verified folder on this worker: from `adapters.path`, the store, or the store's
mirror.

The id comes over the network. It is matched before any path is made of it, and what lies there is served only
if its content has that id.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from adaptive_lora.adapters.base import BaseModelInfo
from adaptive_lora.adapters.manifest import COMPOSITION, read_manifest
from adaptive_lora.adapters.verify import verify_adapter
from adaptive_lora.errors import AdapterError, HashMismatch, NotFound, StorageError, UnknownAdapter
from adaptive_lora.types import AdapterVersion

_ID = re.compile(r"([a-z0-9][a-z0-9_-]{0,62})@([0-9a-f]{12})")


class Store(Protocol):
    """`adapters.store.Store`, as far as a worker needs it."""

    def fetch(self, name: str, version: str) -> Path: ...


class AdapterFiles:
    """`folders` hold one adapter a sub-folder, under any name."""

    def __init__(
        self,
        base: BaseModelInfo,
        *,
        max_rank: int,
        folders: tuple[Path, ...] = (),
        store: Store | None = None,
    ) -> None:
        self._base = base
        self._max_rank = max_rank
        self._folders = folders
        self._store = store

    @property
    def base_fingerprint(self) -> str | None:
        return self._base.fingerprint

    async def find(self, adapter_id: str) -> AdapterVersion:
        """The verified version with this id.

        Raises UnknownAdapter if it is nowhere, AdapterError if its files must not be served.
        """
        match = _ID.fullmatch(adapter_id)
        if match is None:
            raise UnknownAdapter("no such adapter: an id is name@version, a version 12 hex digits")
        return await asyncio.to_thread(self._find, *match.groups())

    def _find(self, name: str, version: str) -> AdapterVersion:
        folder = next(self._candidates(name, version), None)
        if folder is None:
            folder = self._fetched(name, version)
        found = verify_adapter(folder, base=self._base, max_rank=self._max_rank, composed=name == COMPOSITION)
        if (found.name, found.version) != (name, version):
            raise HashMismatch(f"what is kept as {name}@{version} has other content; remove it")
        return found

    def _candidates(self, name: str, version: str) -> Iterator[Path]:
        """Sub-folders whose manifest says that they are it."""
        for folder in self._folders:
            if not folder.is_dir():
                continue
            for path in sorted(folder.iterdir(), key=lambda path: path.name != name):
                if path.is_dir() and not path.name.startswith("."):
                    try:
                        manifest = read_manifest(path, composed=name == COMPOSITION)
                    except AdapterError:
                        continue  # one that is broken keeps no other out
                    if (manifest.name, manifest.version) == (name, version):
                        yield path

    def _fetched(self, name: str, version: str) -> Path:
        if self._store is None:
            raise UnknownAdapter(f"{name}@{version} is not in this worker's folders, and it has no store")
        try:
            return self._store.fetch(name, version)
        except (NotFound, StorageError, AdapterError) as error:
            raise UnknownAdapter(f"{name}@{version} cannot be had here: {error.message}") from error
