"""adaptive-lora route"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer
from rich.table import Table

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
        router = loading.fit_router(settings, catalog.versions)
    names = tuple(version.name for version in catalog.versions)
    decision = router.route(prompt, names, explain=True)
    if as_json:
        print_json(
            {
                "agent": decision.agent,
                "confidence": decision.confidence,
                "reason": decision.reason,
                "scores": dict(decision.scores),
                "explanation": dict(decision.explanation),
            }
        )
        return
    out = output()
    out.print(f"{decision.agent}  (confidence {decision.confidence:.2f}, {decision.reason})", markup=False)
    table = Table("agent", "probability", box=None)
    for name, score in sorted(decision.scores.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{score:.3f}")
    out.print(table)
    for key, value in decision.explanation.items():
        if isinstance(value, (list, tuple)):
            out.print(f"{key}:", markup=False)
            for item in value:
                out.print(f"  {_words(item)}", markup=False)
        else:
            out.print(f"{key}: {_words(value)}", markup=False)


def _words(value: object) -> str:
    """A dictionary as "key value, key value"; anything else as it is."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return "no" if value is None else str(value)
