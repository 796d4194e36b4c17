"""What the server builds from its settings: each room gets its own slice. Blocking; run it in threads.

Imports as late as it can: a server should answer /live long before numpy and its like are loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adaptive_lora.errors import SettingsError
from adaptive_lora.settings import Settings
from adaptive_lora.types import AdapterVersion

if TYPE_CHECKING:
    from adaptive_lora.adapters.base import BaseModelInfo
    from adaptive_lora.adapters.catalog import Catalog
    from adaptive_lora.adapters.origin import Origin
    from adaptive_lora.agents.orchestrator import Routes
    from adaptive_lora.engine.base import Engine
    from adaptive_lora.router.encoder import Encoder
    from adaptive_lora.router.router import Router

_log = logging.getLogger(__name__)


def build_engine(settings: Settings) -> Engine:
    from adaptive_lora.engine.factory import build_engine as build

    return build(settings.model, settings.adapters, settings.inference)


def describe_base(settings: Settings) -> BaseModelInfo:
    """The base model, as far as adapters must agree with it."""
    from adaptive_lora.adapters.base import BaseModelInfo
    from adaptive_lora.adapters.base import describe_base as describe

    if settings.model.engine == "fake":
        return BaseModelInfo(settings.model.base_model)
    name = settings.model.base_model
    return describe(name, base_folder(name), _original(settings.model.quantized_from))


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
    return settings.model.engine == "fake" or base_folder(settings.model.base_model) is not None


def base_folder(base_model: str) -> Path | None:
    """The folder itself, or where Hugging Face's cache keeps that id; None if there is neither."""
    if Path(base_model).is_dir():
        return Path(base_model)
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(base_model, "config.json")
    except HFValidationError:
        return None
    folder = Path(found).parent if isinstance(found, str) else None
    return folder if folder and any(folder.glob("*.safetensors")) else None


def load_catalog(settings: Settings, base: BaseModelInfo) -> Catalog:
    from adaptive_lora.adapters import catalog

    if settings.adapters.path is None:
        return catalog.Catalog()
    return catalog.load_catalog(settings.adapters.path, base=base, max_rank=settings.adapters.max_lora_rank)


def check_unchanged(version: AdapterVersion) -> None:
    """The engine is about to read the files that were verified some time ago: are they still the same?"""
    from adaptive_lora.adapters.verify import check_unchanged as check

    check(version)


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
