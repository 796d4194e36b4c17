"""adaptive-lora route"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from adaptive_lora.cli.common import (
    AdaptersFolder,
    AsJson,
    BaseModel,
    Config,
    console,
    output,
    print_json,
    settings_from,
)
from adaptive_lora.errors import InvalidRequest, NoCandidates
from adaptive_lora.types import RouteDecision

MAX_SHOWN = 12
"""Agents in the table for people."""


def route(
    prompt: Annotated[str, typer.Argument(help="What would be asked.")],
    config: Config = None,
    base_model: BaseModel = None,
    adapters: AdaptersFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say which agent would answer, and why. Loads no model."""
    if not prompt.strip():
        raise InvalidRequest("the prompt is empty")
    settings = settings_from(config, {"model.base_model": base_model, "adapters.path": adapters})
    from adaptive_lora.serving import loading

    with console().status("reading the adapters") as status:
        catalog = loading.load_catalog(settings, loading.describe_base(settings))
        if not catalog.versions:
            raise NoCandidates("there is no adapter to choose: set adapters.path, or see `adapters list`")
        status.update("learning from the adapters' examples")
        router = loading.make_router(settings, catalog.versions)
    names = tuple(version.name for version in catalog.versions)
    print_decision(router.route(prompt, names, explain=True), as_json=as_json)


def print_decision(decision: RouteDecision, *, as_json: bool) -> None:
    """A decision with its explanation, for a program or for people."""
    if as_json:
        print_json(
            {
                "agent": decision.agent,
                "confidence": decision.confidence,
                "reason": decision.reason,
                "doubt": decision.doubt,
                "candidates": list(decision.candidates),
                "scores": dict(decision.scores),
                "explanation": dict(decision.explanation),
            }
        )
        return
    out = output()
    out.print(f"{decision.agent}  (confidence {decision.confidence:.2f}, {decision.reason})", markup=False)
    likely = sorted(decision.scores.items(), key=lambda item: -item[1])
    table = Table("agent", "probability", "candidate", box=None)
    for name, score in likely[:MAX_SHOWN]:
        table.add_row(Text(name), f"{score:.3f}", "yes" if name in decision.candidates else "")
    out.print(table)
    if len(likely) > MAX_SHOWN:
        out.print(f"and {len(likely) - MAX_SHOWN} less probable agents")
    explanation = dict(decision.explanation)
    if explanation.get("abstained_because"):
        out.print(f"\nThe base answers: {explanation['abstained_because']}", markup=False)
    if explanation.get("ngrams"):
        table = Table("n-gram", "weight", box=None)
        for item in explanation["ngrams"]:
            table.add_row(Text(repr(item["ngram"])), f"{item['weight']:+.3f}")
        out.print()
        out.print(table)
    if explanation.get("nearest_examples"):
        table = Table("nearest example", "agent", "similarity", box=None)
        for item in explanation["nearest_examples"]:
            table.add_row(Text(item["text"]), Text(item["agent"]), f"{item['similarity']:.3f}")
        out.print()
        out.print(table)
    if explanation:
        limits = ", ".join(f"{key} {value}" for key, value in explanation["thresholds"].items())
        out.print(f"\nfamiliarity {explanation['familiarity']}; thresholds: {limits}", markup=False)
        out.print(f"read by: {', '.join(explanation['reads'])}", markup=False)
