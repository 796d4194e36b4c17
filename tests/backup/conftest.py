"""A site with something in every place, in both kinds of database; a repository with and without a key."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adaptive_lora.access.records import NewKey
from adaptive_lora.access.store import AccessStore
from adaptive_lora.adapters.records import NewVersion
from adaptive_lora.adapters.registry import Registry
from adaptive_lora.adapters.registry_database import Database, sqlite_url
from adaptive_lora.adapters.registry_tables import metadata
from adaptive_lora.backup.make import Made, make
from adaptive_lora.backup.repository import Repository
from adaptive_lora.backup.site import Site, files_below
from adaptive_lora.batches.records import NewBatch, StoredFile, new_file_id
from adaptive_lora.batches.stores import Stores
from tests.adapter_folders import verified, write_adapter

BY = {"who": "ann", "why": "because"}
DAY = timedelta(days=1)


@dataclass
class LiveSite:
    """What gateways do to a site, without gateways."""

    site: Site
    folder: Path

    def add_adapter(self, name: str, *, seed: int) -> str:
        """Returns its version, which is `prod`."""
        source = write_adapter(self.folder / f"upload-{secrets.token_hex(4)}", name=name, seed=seed)
        found = verified(source)
        self.site.store().install(source, name, found.version)
        with self._registry() as registry:
            registry.add(NewVersion.of(found, "demo", origin="store", source="upload"), **BY)
            registry.declare(name, found.version, loaded=True, **BY)
            registry.point(name, "prod", found.version, **BY)
        return found.version

    def delete_adapter(self, name: str, version: str) -> None:
        """As the fleet does: the registry first."""
        with self._registry() as registry:
            registry.drop(name, "prod", **BY)
            registry.declare(name, version, loaded=False, **BY)
            registry.retire(name, version, **BY)
            registry.delete(name, version, **BY)
        self.site.store().remove(name, version)

    def mint(self, name: str) -> str:
        store = AccessStore.open(self.site.database_url)
        try:
            return store.mint(NewKey(name, "acme", frozenset({"generate"})), who="ann").key.id
        finally:
            store.close()

    def add_file(self, content: bytes) -> str:
        """Of a batch that waits."""
        stores = Stores.open(self.site.database_url, self.site.state, self.site.storage_url)
        try:
            now = datetime.now(UTC)
            file = StoredFile(new_file_id(), "acme", "batch", "in.jsonl", len(content), now, now + DAY)
            stores.files.draft(file)
            with stores.contents.draft() as draft:
                draft.write_bytes(content)
                stores.contents.put(draft, file.id)
            stores.files.publish(file)
            new = NewBatch(file.tenant, {"subject": "ann"}, "/v1/completions", file.id, now + DAY)
            stores.batches.add(new, now=now, max_unfinished=100)
            return file.id
        finally:
            stores.close()

    def snapshot(self) -> dict[str, object]:
        """Everything that a backup promises to keep."""
        return {"rows": rows_of(self.site), "files": files_of(self.site)}

    def _registry(self) -> _Closing:
        return _Closing(Registry.open(self.site.database_url))


class _Closing:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __enter__(self) -> Registry:
        return self._registry

    def __exit__(self, *_: object) -> None:
        self._registry.close()


def rows_of(site: Site) -> dict[str, list[dict[str, object]]]:
    database = Database(site.database_url, timeout_s=30)
    try:
        with database.transaction() as connection:
            return {
                table.name: sorted(
                    (dict(row._mapping) for row in connection.execute(table.select())), key=repr
                )
                for table in metadata.sorted_tables
            }
    finally:
        database.close()


def files_of(site: Site) -> dict[str, bytes]:
    folders = {
        "adapters": site.state / "adapters", "files": site.state / "files",
        **{str(place): folder for place, folder in site.folders.items()},
    }  # fmt: skip
    return {
        f"{place}/{path}": file.read_bytes()
        for place, folder in folders.items()
        for path, file in files_below(folder)
    }


def site_at(folder: Path, url: str | None = None) -> Site:
    folder.mkdir(parents=True, exist_ok=True)
    return Site(
        url or sqlite_url(folder / "registry.db"),
        folder,
        folders={"bundles": folder / "router", "learning": folder / "outcomes", "folder": folder / "own"},
    )


def fill(live: LiveSite) -> None:
    """Something in every place."""
    live.add_adapter("code", seed=1)
    live.add_adapter("law", seed=2)
    live.mint("ci")
    live.add_file(b'{"custom_id": "one"}\n')
    bundles, outcomes = live.site.folders["bundles"], live.site.folders["learning"]
    (bundles / "3f9c2a000001").mkdir(parents=True)
    (bundles / "3f9c2a000001" / "manifest.json").write_text("{}")
    (bundles / "history.jsonl").write_text('{"version": "3f9c2a000001"}\n')
    (bundles / "CURRENT").write_text("3f9c2a000001\n")
    (bundles / ".lock").touch()
    outcomes.mkdir()
    (outcomes / "choices.jsonl").write_text('{"request_id": "a"}\n{"request_id": "b"}\n')
    write_adapter(live.site.folders["folder"] / "poem", seed=3)


@pytest.fixture
def live(database_url: str, tmp_path: Path) -> LiveSite:
    live = LiveSite(site_at(tmp_path / "state", database_url), tmp_path)
    fill(live)
    return live


@pytest.fixture
def sqlite_live(tmp_path: Path) -> LiveSite:
    live = LiveSite(site_at(tmp_path / "state"), tmp_path)
    fill(live)
    return live


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "backup.key"
    path.write_text(secrets.token_hex(32) + "\n")
    return path


@pytest.fixture
def repository(request: pytest.FixtureRequest, tmp_path: Path, key_file: Path) -> Repository:
    """Encrypted for a site on SQLite, and not for one on PostgreSQL: two pairs show all four."""
    names = request.fixturenames
    is_plain = "database_url" in names and "postgresql" in request.getfixturevalue("database_url")
    return Repository.open(f"{tmp_path}/backups", None if is_plain else key_file, create=True)


@pytest.fixture
def plain(tmp_path: Path) -> Repository:
    return Repository.open(f"{tmp_path}/backups", create=True)


def backed_up(site: Site, repository: Repository, **options: object) -> Made:
    return make(site, repository, settings={"api": {"port": 9000}}, **options)  # type: ignore[arg-type]
