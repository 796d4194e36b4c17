"""What the server builds from its settings: each room gets its own slice. Blocking; run it in threads.

Imports as late as it can: a server should answer /live long before numpy and its like are loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from adaptive_lora.adapters.base_folder import base_folder
from adaptive_lora.errors import SettingsError
from adaptive_lora.settings import Settings
from adaptive_lora.types import AdapterVersion

if TYPE_CHECKING:
    from adaptive_lora.access.store import AccessStore
    from adaptive_lora.adapters.base import BaseModelInfo
    from adaptive_lora.adapters.catalog import Catalog
    from adaptive_lora.adapters.origin import Origin
    from adaptive_lora.adapters.registry import Registry
    from adaptive_lora.agents.compositions import Compositions
    from adaptive_lora.agents.fleet import Fleet
    from adaptive_lora.agents.view import FleetView, Routes
    from adaptive_lora.batches.stores import Stores
    from adaptive_lora.engine.base import Engine
    from adaptive_lora.router.encoder import Encoder
    from adaptive_lora.router.router import Router
    from adaptive_lora.telemetry.adapters import AdapterMetrics
    from adaptive_lora.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)


def build_engine(settings: Settings, metrics: AdapterMetrics | None = None) -> Engine:
    from adaptive_lora.engine.factory import build_engine as build

    name = settings.model.base_model
    if settings.model.engine == "vllm" and name.startswith(("/", "./", "../")) and base_folder(name) is None:
        raise SettingsError(f"model.base_model is {name}, which is not a folder")
    return build(
        settings.model,
        settings.adapters,
        settings.inference,
        settings.workers,
        admission=settings.admission,
        metrics=metrics,
    )


def describe_base(settings: Settings, engine: Engine | None = None) -> BaseModelInfo:
    """The base model, as far as adapters must agree with it.

    A remote engine's is what its workers say, who have its files; the gateway need not. Raises SettingsError
    if it has others.
    """
    from adaptive_lora.adapters.base import BaseModelInfo
    from adaptive_lora.adapters.base import describe_base as describe

    if settings.model.engine == "fake":
        return BaseModelInfo(settings.model.base_model)
    name = settings.model.base_model
    base = describe(name, base_folder(name), _original(settings.model.quantized_from))
    fingerprint = getattr(engine, "base_fingerprint", None)
    if base.fingerprint and fingerprint and base.fingerprint != fingerprint:
        raise SettingsError(
            f"model.base_model is {name!r}, and the workers serve another model (or another state of it)"
        )
    return replace(base, fingerprint=base.fingerprint or fingerprint)


def _original(name: str | None) -> Origin | None:
    """What the operator says that the base was quantised from."""
    from adaptive_lora.adapters.base import base_fingerprint
    from adaptive_lora.adapters.origin import Origin

    if name is None:
        return None
    folder = base_folder(name)
    if folder is None and Path(name).is_absolute():
        raise SettingsError(f"model.quantized_from is {name}, which is not a folder")
    return Origin(name, base_fingerprint(folder) if folder else None)


def is_on_disk(settings: Settings) -> bool:
    """Whether the base model can be described before an engine has fetched it."""
    if settings.model.engine == "remote":
        return False  # its workers say what it is, once they are there
    return settings.model.engine == "fake" or base_folder(settings.model.base_model) is not None


def load_catalog(settings: Settings, base: BaseModelInfo) -> Catalog:
    from adaptive_lora.adapters import catalog

    if settings.adapters.path is None:
        return catalog.Catalog()
    return catalog.load_catalog(settings.adapters.path, base=base, max_rank=settings.adapters.max_lora_rank)


def open_registry(settings: Settings) -> Registry:
    """The registry that `registry.database_url` names, or a file in the state folder. Migrates it forward."""
    from adaptive_lora.adapters.registry import Registry

    return Registry.open(registry_url(settings))


def open_access(settings: Settings) -> AccessStore:
    """API keys, revocations and the audit log: in the registry's database."""
    from adaptive_lora.access.store import AccessStore

    return AccessStore.open(registry_url(settings))


def open_batches(settings: Settings) -> Stores:
    """Files and batches: records in the registry's database, contents where `storage` says."""
    from adaptive_lora.adapters.state import state_folder
    from adaptive_lora.batches.stores import Stores

    return Stores.open(registry_url(settings), state_folder(settings), settings.storage.url)


def registry_url(settings: Settings) -> str:
    """Of the database that `open_registry` and its like open. Makes the state folder for a file in it."""
    from adaptive_lora.adapters.registry_database import sqlite_url, with_password_file
    from adaptive_lora.adapters.state import state_folder

    registry = settings.registry
    if registry.database_url is not None:
        url = registry.database_url.get_secret_value()
        return with_password_file(url, registry.password_file) if registry.password_file else url
    if registry.password_file is not None:
        raise SettingsError("registry.password_file is for the user in registry.database_url: set that, too")
    folder = state_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    return sqlite_url(folder / "registry.db")


def offline_view(settings: Settings, registry: Registry) -> FleetView:
    """What a server would serve, without an engine."""
    from adaptive_lora.adapters.state import state_folder
    from adaptive_lora.adapters.store import Store
    from adaptive_lora.agents.offline import offline_view as view

    base = describe_base(settings)
    catalog = load_catalog(settings, base)
    store = Store(state_folder(settings), settings.storage.url)
    return view(registry.snapshot(), catalog, store, base=base, max_rank=settings.adapters.max_lora_rank)


def make_compositions(
    settings: Settings, engine: Engine, *, unused: Callable[[str], Awaitable[None]]
) -> Compositions | None:
    """None if compositions are switched off. `unused` as in `make_fleet`."""
    if settings.adapters.max_compositions == 0:
        return None
    from adaptive_lora.adapters.state import state_folder
    from adaptive_lora.agents.compositions import Compositions

    return Compositions(
        engine,
        state_folder(settings) / "compositions",
        max_rank=settings.adapters.max_lora_rank,
        capacity=settings.adapters.max_compositions,
        method=settings.adapters.composition_method,
        density=settings.adapters.composition_density,
        unused=unused,
    )


def make_fleet(
    settings: Settings,
    engine: Engine,
    registry: Registry,
    base: BaseModelInfo,
    *,
    prove: Callable[[AdapterVersion], Awaitable[None]],
    metrics: Metrics,
    compositions: Compositions | None,
    unused: Callable[[str], Awaitable[None]],
) -> Fleet:
    """The fleet of this process, empty so far. `unused` waits until no request asks for a version."""
    from adaptive_lora.adapters.state import state_folder
    from adaptive_lora.adapters.store import Store
    from adaptive_lora.agents.entrance import Entrance
    from adaptive_lora.agents.fleet import Fleet
    from adaptive_lora.agents.reconcile import Reconciler

    async def on_unload(version_id: str) -> None:
        metrics.forget_version(*version_id.split("@"))
        if compositions is not None:
            await compositions.forget(version_id)

    store = Store(state_folder(settings), settings.storage.url)
    max_rank = settings.adapters.max_lora_rank
    reconciler = Reconciler(
        engine,
        store,
        base=base,
        max_rank=max_rank,
        prove=prove,
        fit_router=partial(make_routes, settings),
        keep_router=partial(_keep_router, settings.router.bundle_path),
        unused=unused,
        on_unload=on_unload,
    )
    entrance = Entrance(
        engine,
        registry,
        store,
        base=base,
        max_rank=max_rank,
        prove=prove,
        effect_checks=settings.adapters.effect_checks,
    )
    return Fleet(engine, registry, store, reconciler, entrance)


def _keep_router(bundle_path: Path | None, routes: Routes, versions: Mapping[str, str]) -> None:
    """Where bundles are served, what the router has learnt while serving becomes one: a restart finds it."""
    if bundle_path is None:
        return
    from adaptive_lora.router.bundle import BundleStore
    from adaptive_lora.router.learning import LearningRouter
    from adaptive_lora.router.router import Router

    router = routes.router if isinstance(routes, LearningRouter) else routes
    if isinstance(router, Router):
        BundleStore(bundle_path).save(router, versions, why="the fleet changed")


def make_routes(settings: Settings, versions: Sequence[AdapterVersion]) -> Routes:
    """The router, learning from outcomes if that is configured."""
    router = make_router(settings, versions)
    if settings.router.learning_path is None:
        return router
    from adaptive_lora.router.learning import LearningRouter

    return LearningRouter(router, settings.router.learning_path, seed=settings.router.seed)


def make_router(settings: Settings, versions: Sequence[AdapterVersion]) -> Router:
    """The current bundle if one is configured; else learn from the adapters' examples."""
    from adaptive_lora.router.encoder import load_encoder
    from adaptive_lora.router.router import Router

    encoder = load_encoder(settings.router.encoder_path) if settings.router.use_encoder else None
    if settings.router.bundle_path is not None:
        return _from_bundle(settings.router.bundle_path, encoder, versions)
    return Router.fit(
        {version.name: version.examples for version in versions},
        encoder=encoder,
        descriptions={version.name: version.description for version in versions},
        seed=settings.router.seed,
        min_confidence=settings.router.min_confidence,
        max_error=settings.router.max_error,
    )


def _from_bundle(path: Path, encoder: Encoder | None, versions: Sequence[AdapterVersion]) -> Router:
    """Adapters move together with the router: one that is served in another version than the bundle has
    learnt answers explicit calls only."""
    from adaptive_lora.router.bundle import BundleStore

    bundle = BundleStore(path).load(encoder=encoder)
    router = bundle.router
    for version in versions:
        learnt = bundle.manifest.adapters.get(version.name)
        if learnt is not None and learnt != version.version and version.name in router.agents:
            _log.warning(
                "router bundle %s has learnt %s@%s, and %s is served: it answers explicit calls only until "
                "the bundle is fitted again or rolled back",
                bundle.version,
                version.name,
                learnt,
                version.id,
            )
            router = router.without_agent(version.name)
    _log.info("router bundle %s, agents: %s", bundle.version, ", ".join(router.agents) or "none")
    return router
