"""Compositions as callers ask for them, and as the router proposes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from adaptive_lora.adapters.records import AliasRecord, CompositionRecord, Report, Snapshot
from adaptive_lora.agents.compositions import Compositions
from adaptive_lora.agents.names import Composition, parse_name
from adaptive_lora.agents.orchestrator import Orchestrator
from adaptive_lora.agents.reconcile import approved
from adaptive_lora.agents.view import FleetView
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.errors import UnknownAdapter
from adaptive_lora.telemetry.metrics import Metrics
from adaptive_lora.types import BASE, AdapterVersion, GenerateRequest
from tests.adapter_folders import verified, write_adapter
from tests.agents.conftest import fleet_of
from tests.agents.test_orchestrator import Recorder

SPEC = "code:0.7+poems:0.3"


@pytest.fixture
def versions(tmp_path: Path) -> list[AdapterVersion]:
    return [verified(write_adapter(tmp_path / name, seed=seed)) for name, seed in (("code", 1), ("poems", 2))]


@pytest.fixture
async def compositions(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[Compositions]:
    compositions = Compositions(engine, tmp_path / "compositions", max_rank=64, capacity=2)
    yield compositions
    await compositions.close()


class Sure(Recorder):
    """Holds both agents possible."""

    def route(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
        decision = super().route(*args, **kwargs)  # type: ignore[arg-type]
        return replace(decision, candidates=("poems", "code"))


def orchestrator(
    engine: FakeEngine, view: FleetView, compositions: Compositions | None, metrics: Metrics
) -> Orchestrator:
    return Orchestrator(engine, lambda: view, timeout_s=30, metrics=metrics, compositions=compositions)


async def test_a_composition_is_built_loaded_and_answers(
    engine: FakeEngine, versions: list[AdapterVersion], compositions: Compositions, metrics: Metrics
) -> None:
    serving = orchestrator(engine, fleet_of(versions), compositions, metrics)
    plan = await serving.plan("x", parse_name(SPEC))
    assert plan.agent == SPEC
    assert plan.adapter is not None
    assert (plan.adapter.name, plan.adapter.rank) == ("composition", 16)
    (completion,) = await serving.complete(plan, GenerateRequest("r1", "x", adapter_id=plan.adapter_id))
    assert completion.text
    again = await serving.plan("x", parse_name(f"code@{versions[0].version[:6]}:0.7+poems@prod:0.3"))
    assert again.adapter == plan.adapter, "the same versions in the same weights"
    text = metrics.render().decode()
    assert 'lora_requests_total{agent="composition",outcome="done"} 1.0' in text
    assert SPEC not in text, "what callers think of is no label"


async def test_a_part_that_does_not_exist(
    engine: FakeEngine, versions: list[AdapterVersion], compositions: Compositions, metrics: Metrics
) -> None:
    serving = orchestrator(engine, fleet_of(versions), compositions, metrics)
    with pytest.raises(UnknownAdapter, match="law"):
        await serving.plan("x", parse_name("code:0.7+law:0.3"))


@pytest.mark.parametrize("agent", ["code", BASE])
async def test_the_router_proposes_what_has_proved_better(
    agent: str,
    engine: FakeEngine,
    versions: list[AdapterVersion],
    compositions: Compositions,
    metrics: Metrics,
) -> None:
    name = parse_name(SPEC)
    assert isinstance(name, Composition)
    view = replace(fleet_of(versions, Sure(agent)), compositions={frozenset({"code", "poems"}): name})
    plan = await orchestrator(engine, view, compositions, metrics).plan("x", parse_name("auto"))
    if agent == BASE:
        assert (plan.agent, plan.decision.reason) == (BASE, "abstained"), "an abstention stands"
    else:
        assert (plan.agent, plan.decision.reason) == (SPEC, "composed")
        assert plan.adapter is not None
        assert plan.adapter.name == "composition"
    without = fleet_of(versions, Sure(agent))
    alone = await orchestrator(engine, without, compositions, metrics).plan("x", parse_name("auto"))
    assert alone.agent == agent


def test_approval_is_for_the_versions_that_were_compared(versions: list[AdapterVersion]) -> None:
    code, poems = versions
    report = Report(datetime.now(UTC), "ann", {})

    def snapshot(*agents: str, won: bool = True) -> Snapshot:
        aliases = tuple(AliasRecord(v.name, "prod", v.version, None) for v in versions)
        return Snapshot(1, (), aliases, (CompositionRecord(SPEC, agents, won, report),))

    prods = {version.name: version for version in versions}
    assert list(approved(snapshot(code.id, poems.id), prods)) == [frozenset({"code", "poems"})]
    assert approved(snapshot(code.id, poems.id, won=False), prods) == {}
    assert approved(snapshot("code@000000000000", poems.id), prods) == {}, "code has been replaced since"
