"""Changes of one fleet that meet: real registry, store and files; an engine that is told what to say."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import pytest

from adaptive_lora.adapters.base import BaseModelInfo
from adaptive_lora.adapters.records import Change
from adaptive_lora.adapters.registry import Registry
from adaptive_lora.adapters.registry_database import sqlite_url
from adaptive_lora.adapters.store import Store
from adaptive_lora.adapters.verify import check_unchanged
from adaptive_lora.agents.entrance import Entrance
from adaptive_lora.agents.fleet import Fleet
from adaptive_lora.agents.reconcile import Reconciler
from adaptive_lora.agents.view import Routes
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.errors import BundleError, EngineError, RegistryUnavailable
from adaptive_lora.router.router import Router
from adaptive_lora.types import AdapterVersion
from tests.adapter_folders import write_adapter

BASE = BaseModelInfo("demo")
BY = Change("ann", "a test")


class World:
    """A fleet of one process. `proofs` says what comes of proving a version, one call after the other; then
    all are good."""

    def __init__(self, tmp_path: Path) -> None:
        self.database = tmp_path / "registry.db"
        self.registry = Registry.open(sqlite_url(self.database), timeout_s=1.0)
        self.store = Store(tmp_path / "state")
        self.engine = FakeEngine(max_loras=2)
        self.proofs: list[Callable[[], Awaitable[None]]] = []
        self.kept: list[Mapping[str, str]] = []
        self.bundles_fail = False
        self.reconciler = Reconciler(
            self.engine,
            self.store,
            base=BASE,
            max_rank=64,
            prove=self._prove,
            fit_router=_fit,
            keep_router=self._keep,
        )
        entrance = Entrance(
            self.engine,
            self.registry,
            self.store,
            base=BASE,
            max_rank=64,
            prove=self._prove,
            effect_checks=False,
        )
        self.fleet = Fleet(self.engine, self.registry, self.store, self.reconciler, entrance)

    async def add(self, name: str, seed: int = 0) -> AdapterVersion:
        """As an upload does it. Returns what is served then."""
        with self.store.staging() as scratch:
            folder = write_adapter(scratch / name, seed=seed, examples=(f"an example of {name}",))
            record = await self.fleet.add(folder, source="upload", by=BY)
        return self.fleet.view.versions[record.id]

    async def _prove(self, version: AdapterVersion) -> None:
        if self.proofs:
            await self.proofs.pop(0)()

    def _keep(self, router: Routes, versions: Mapping[str, str]) -> None:
        if self.bundles_fail:
            raise BundleError("the bundle cannot be written")
        self.kept.append(versions)


def _fit(versions: Sequence[AdapterVersion]) -> Router:
    return Router.fit({version.name: version.examples for version in versions})


async def wait_for_turns(fleet: Fleet, n: int) -> None:
    """Until so many changes wait for the one that runs."""
    while len(getattr(fleet._one_change, "_waiters", None) or ()) < n:  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.001)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.engine.start()
    yield world
    await world.fleet.close()
    await world.engine.stop()
    world.registry.close()


async def test_a_refused_upload_does_not_take_the_files_of_another_one_of_the_same_content(
    world: World,
) -> None:
    """The second is proven after the first has been refused; its files must be there, and stay."""
    is_second_there = asyncio.Event()
    is_first_over = asyncio.Event()

    async def refuse() -> None:
        await is_second_there.wait()
        raise EngineError("it does not generate")

    async def accept() -> None:
        await is_first_over.wait()

    world.proofs = [refuse, accept]

    async def first() -> None:
        with pytest.raises(EngineError):
            await world.add("code")
        is_first_over.set()

    async def second() -> AdapterVersion:
        return await world.add("code")

    first_upload = asyncio.create_task(first())
    while not world.engine.adapters:  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0)
    second_upload = asyncio.create_task(second())
    await wait_for_turns(world.fleet, 1)
    is_second_there.set()
    await first_upload
    version = await second_upload
    assert world.store.has(version.name, version.version)
    check_unchanged(version)


async def test_what_is_deleted_and_added_again_at_once_has_its_files(world: World) -> None:
    version = await world.add("code")
    by = {"who": "ann", "why": ""}
    world.registry.drop("code", "prod", **by)
    await world.fleet.retire("code", version.version, by=BY)
    is_deleted = asyncio.Event()

    async def wait() -> None:
        await is_deleted.wait()

    async with world.fleet._one_change:
        deleting = asyncio.create_task(world.fleet.delete("code", version.version, by=BY))
        await wait_for_turns(world.fleet, 1)
        world.proofs = [wait]
        adding = asyncio.create_task(world.add("code"))
        await wait_for_turns(world.fleet, 2)
    await deleting
    is_deleted.set()
    again = await adding
    assert again.id == version.id
    check_unchanged(again)


async def test_a_pin_that_could_not_be_declared_leaves_no_slot_taken(world: World) -> None:
    first, second = await world.add("code"), await world.add("music", seed=1)
    other = sqlite3.connect(world.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(RegistryUnavailable):
        await world.fleet.pin("code", first.version, by=BY)
    other.execute("ROLLBACK")
    other.close()
    await world.fleet.reconcile()
    await world.fleet.pin("music", second.version, by=BY)  # one of two slots; one must be left
    assert world.fleet.view.pinned == {second.id}


async def test_a_router_that_cannot_be_kept_routes_nevertheless_and_is_kept_later(world: World) -> None:
    """A bundle's folder may be full, or not be ours to write to: who is added answers all the same."""
    await world.add("code")
    world.bundles_fail = True
    music = await world.add("music", seed=1)
    await world.fleet.reconcile()
    assert world.fleet.view.standing("music").routing != "explicit_only"
    world.bundles_fail = False
    await world.fleet.reconcile()
    assert world.kept[-1]["music"] == music.version
