"""adaptive-lora compositions evaluate | list"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from adaptive_lora.cli.client import actor
from adaptive_lora.cli.common import AsJson, Config, console, output, print_json, settings_from
from adaptive_lora.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adaptive_lora.agents.names import Composition
    from adaptive_lora.settings import Settings
    from adaptive_lora.training.composition_evaluation import CompositionReport
    from adaptive_lora.types import AdapterVersion, Probe

app = typer.Typer(help="Weighted sums of agents.", no_args_is_help=True)

MAX_PROPOSED_AGENTS = 3
"""The router proposes compositions for candidate sets of two or three agents."""


@app.command("evaluate")
def evaluate(
    spec: Annotated[str, typer.Argument(help="As a caller would ask for it: code:0.7+reasoning:0.3")],
    prompts: Annotated[
        Path, typer.Option("--prompts", exists=True, dir_okay=False, help='JSONL of {"prompt", "answer"}.')
    ],
    confidence: Annotated[float, typer.Option("--confidence", min=0.5, max=0.9999)] = 0.95,
    why: Annotated[str, typer.Option("--why", help="For the history.")] = "",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Compare a composition with each of its agents alone; only one that beats them all is proposed by the
    router.

    Starts an engine of its own. The result is kept in the registry: running servers follow it.
    """
    from adaptive_lora.agents.names import Composition, parse_name
    from adaptive_lora.serving import loading
    from adaptive_lora.training.composition_evaluation import read_prompts

    name = parse_name(spec)
    if not isinstance(name, Composition):
        raise InvalidRequest(f"{spec!r} is no composition: write code:0.7+reasoning:0.3")
    if not 2 <= len(name.parts) <= MAX_PROPOSED_AGENTS or any(agent.ref for agent, _ in name.parts):
        raise InvalidRequest(
            f"the router proposes compositions of two or {MAX_PROPOSED_AGENTS} agents, named without versions"
        )
    settings = settings_from(config, {})
    rows = read_prompts(prompts)
    registry = loading.open_registry(settings)
    try:
        view = loading.offline_view(settings, registry)
        agents = [view.resolve(agent, "")[0] for agent, _ in name.parts]
        with console().status("comparing"):
            report = asyncio.run(_compare(settings, name, agents, rows, confidence))
        registry.evaluate_composition(
            str(name),
            [version.id for version in agents],
            report.as_dict(),
            approved=report.approved,
            who=actor(),
            why=why,
        )
    finally:
        registry.close()
    if as_json:
        print_json({"spec": str(name), **report.as_dict()})
    else:
        _show(str(name), report)


@app.command("list")
def list_compositions(config: Config = None, as_json: AsJson = False) -> None:
    """Show the compositions that have been compared with their agents."""
    from adaptive_lora.serving import loading

    registry = loading.open_registry(settings_from(config, {}))
    try:
        records = registry.snapshot().compositions
    finally:
        registry.close()
    if as_json:
        print_json(
            [
                {
                    "spec": record.spec,
                    "agents": list(record.agents),
                    "approved": record.approved,
                    "at": record.report.at.isoformat(),
                    "report": dict(record.report.content),
                }
                for record in records
            ]
        )
        return
    table = Table("composition", "approved", "of", "at (UTC)", box=None)
    for record in records:
        at = f"{record.report.at:%Y-%m-%d %H:%M}"
        table.add_row(Text(record.spec), "yes" if record.approved else "no", ", ".join(record.agents), at)
    output().print(table)


async def _compare(
    settings: Settings,
    name: Composition,
    agents: Sequence[AdapterVersion],
    prompts: Sequence[Probe],
    confidence: float,
) -> CompositionReport:
    from adaptive_lora.agents.compositions import Compositions
    from adaptive_lora.serving import loading
    from adaptive_lora.training.composition_evaluation import evaluate_composition

    engine = loading.build_engine(settings)
    with tempfile.TemporaryDirectory() as folder:
        adapters = settings.adapters
        compositions = Compositions(
            engine,
            Path(folder),
            max_rank=adapters.max_lora_rank,
            capacity=1,
            method=adapters.composition_method,
            density=adapters.composition_density,
        )
        try:
            await engine.start()
            for version in agents:
                await engine.load(version)
            weights = [weight for _, weight in name.parts]
            composed = await compositions.get(list(zip(agents, weights, strict=True)))
            return await evaluate_composition(engine, composed, agents, prompts, confidence=confidence)
        finally:
            await compositions.close()
            await engine.stop()


def _show(spec: str, report: CompositionReport) -> None:
    table = Table("", "log-probability", "composition is better by", "at least", box=None)
    table.add_row(Text(spec), f"{report.score:.3f}", "", "")
    for rival in report.rivals:
        cells: list[Any] = [f"{rival.score:.3f}", f"{rival.advantage:+.3f}", f"{rival.lower_bound:+.3f}"]
        table.add_row(Text(rival.id), *cells)
    output().print(table)
    verdict = "approved: the router may propose it" if report.approved else "not approved"
    output().print(f"{verdict} ({report.n_prompts} prompts, nats per token)", markup=False)
