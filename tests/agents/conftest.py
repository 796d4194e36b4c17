from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from adaptive_lora.adapters.records import PROD
from adaptive_lora.agents.orchestrator import Orchestrator
from adaptive_lora.agents.view import Alias, FleetView, Routes
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.telemetry.metrics import Metrics
from adaptive_lora.types import AdapterVersion


def version_of(name: str, version: str) -> AdapterVersion:
    return AdapterVersion(name, version, Path(name), 8, f"does {name}", (f"an example of {name}",), 1_000)


def fleet_of(versions: Sequence[AdapterVersion], router: Routes | None = None) -> FleetView:
    """All ready; of several versions of one name the last is `prod`."""
    aliases = {version.name: {PROD: Alias(version.version)} for version in versions}
    return FleetView({version.id: version for version in versions}, aliases, router)


@pytest.fixture
def versions() -> list[AdapterVersion]:
    return [
        version_of("code", "3f9c2a000001"),
        version_of("code", "3f9c2b000002"),
        version_of("creative", "aaaa00000003"),
    ]


@pytest.fixture
async def engine(versions: list[AdapterVersion]) -> AsyncIterator[FakeEngine]:
    engine = FakeEngine()
    await engine.start()
    for version in versions:
        await engine.load(version)
    yield engine
    await engine.stop()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def orchestrate(
    engine: FakeEngine, versions: list[AdapterVersion], metrics: Metrics
) -> Callable[..., Orchestrator]:
    def build(router: Routes | None = None, *, timeout_s: float = 30.0) -> Orchestrator:
        view = fleet_of(versions, router)
        return Orchestrator(engine, lambda: view, timeout_s=timeout_s, metrics=metrics, base_version="b0")

    return build
