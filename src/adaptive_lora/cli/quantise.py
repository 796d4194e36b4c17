"""adaptive-lora quantise make | check"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from adaptive_lora import demo_fleet
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
from adaptive_lora.errors import SettingsError

if TYPE_CHECKING:
    from adaptive_lora.engine.base import Engine
    from adaptive_lora.settings import Settings
    from adaptive_lora.training.quantise_check import AgentLoss
    from adaptive_lora.types import AdapterVersion

MAX_LOSS = 0.05
"""Nats per token: an agent's perplexity 5 % above the original's."""

app = typer.Typer(help="Smaller bases: write one, and measure what it costs the fleet.", no_args_is_help=True)


@app.command("make")
def make(
    base: Annotated[
        str, typer.Argument(help="The original: 'demo', a folder, or a fetched Hugging Face id.")
    ],
    output_folder: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder to write; must not exist.")],
    scheme: Annotated[str, typer.Option(help="'w8a8-int8' or 'w4a16-int4'.")] = "w8a8-int8",
    name: Annotated[
        str | None, typer.Option(help="What adapters' manifests call the original; default: its own name.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a quantised copy of a Llama-like base, which serves the original's adapters."""
    from adaptive_lora.adapters.base_folder import base_folder
    from adaptive_lora.training.quantise import SCHEMES, quantise_base

    if scheme not in SCHEMES:
        raise SettingsError(f"there is no scheme {scheme!r}; there are: {', '.join(SCHEMES)}")
    folder = demo_fleet.folder() / "base" if base == demo_fleet.DEMO else base_folder(base)
    if folder is None:
        raise SettingsError(
            f"{base} is no folder with safetensors, and not fetched yet: `hf download {base}`"
        )
    named = name or demo_fleet.public_name(base)
    with console().status(f"reading {folder}") as status:
        report = quantise_base(folder, output_folder, scheme, name=named, progress=status.update)
    if as_json:
        print_json(asdict(report))
        return
    before, after = report.bytes_before / 1e6, report.bytes_after / 1e6
    console().print(
        f"{output_folder}: {report.n_linear} layers as {scheme}, {before:.1f} MB -> {after:.1f} MB. "
        "`adaptive-lora quantise check` says what it costs",
        markup=False,
    )


@app.command("check")
def check(
    quantised: Annotated[
        str | None, typer.Option(help="The quantised model; default: the base, with --quantization.")
    ] = None,
    quantization: Annotated[
        str | None, typer.Option(help="vLLM's method for it: 'bitsandbytes' makes NF4 while it loads.")
    ] = None,
    config: Config = None,
    base_model: BaseModel = None,
    adapters: AdaptersFolder = None,
    n_questions: Annotated[
        int, typer.Option("--questions", min=1, help="Of each agent and of the base.")
    ] = 40,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    max_loss: Annotated[
        float,
        typer.Option(min=0, help="Nats per token that the worst agent may lose; 0.05 is 5 % perplexity."),
    ] = MAX_LOSS,
    as_json: AsJson = False,
) -> None:
    """Compare a quantised base with the original on the fleet's examples and probes. Exit code 1: too much is
    lost. Starts two engines, one after the other."""
    if quantised is None and quantization is None:
        raise SettingsError("nothing to compare: pass --quantised FOLDER, or --quantization bitsandbytes")
    flags = {"model.base_model": base_model, "adapters.path": adapters}
    original = settings_from(config, flags)
    changed = {"model.quantization": quantization, "adapters.path": original.adapters.path}
    if quantised is not None:
        changed |= {"model.base_model": quantised, "model.quantized_from": original.model.base_model}
    smaller = settings_from(config, flags | changed)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    rows = asyncio.run(_compare(original, smaller, n_questions, max_tokens))
    worst = max(rows, key=lambda row: row.loss)
    if as_json:
        print_json(
            {
                "original": original.model.base_model,
                "quantised": smaller.model.base_model,
                "quantization": quantization,
                "passed": worst.loss <= max_loss,
                "max_loss": max_loss,
                "worst": worst.agent,
                "agents": [_as_dict(row) for row in rows],
            }
        )
    else:
        _print(rows, worst, max_loss)
    if worst.loss > max_loss:
        raise typer.Exit(1)


async def _compare(
    original: Settings, smaller: Settings, n_questions: int, max_tokens: int
) -> list[AgentLoss]:
    from adaptive_lora.training.quantise_check import compare, questions_of, read, read_original

    versions = _served(smaller)
    questions = questions_of(versions, n_questions)
    async with _engine(original, versions, "the original") as engine:
        answered, before = await read_original(engine, questions, max_tokens)
    async with _engine(smaller, versions, "the quantised model") as engine:
        after = await read(engine, answered, max_tokens)
    return compare(answered, before, after)


def _served(settings: Settings) -> tuple[AdapterVersion, ...]:
    """The adapters that the quantised base accepts, which must be all. Raises what is wrong with another."""
    from adaptive_lora.serving import loading

    if settings.adapters.path is None:
        raise SettingsError("there are no agents to compare: set adapters.path, or pass --adapters")
    catalog = loading.load_catalog(settings, loading.describe_base(settings))
    for error in catalog.rejected.values():
        raise error
    return catalog.versions


@asynccontextmanager
async def _engine(settings: Settings, versions: Sequence[AdapterVersion], what: str) -> AsyncIterator[Engine]:
    from adaptive_lora.serving import loading

    engine = loading.build_engine(settings)
    with console().status(f"starting {what}") as status:
        try:
            await engine.start()
            for version in versions:
                await engine.load(version)
            status.update(f"asking {what}")
            yield engine
        finally:
            await engine.stop()


def _as_dict(row: AgentLoss) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(row).items()}


def _print(rows: Sequence[AgentLoss], worst: AgentLoss, max_loss: float) -> None:
    table = Table(
        "agent",
        "questions",
        "tokens",
        "perplexity",
        "quantised",
        "loss, nats/token",
        "equal answers",
        box=None,
    )
    for row in rows:
        table.add_row(
            Text(row.agent),
            str(row.n_questions),
            str(row.n_tokens),
            f"{row.perplexity:.3f}",
            f"{row.quantised_perplexity:.3f}",
            f"{row.loss:+.4f}",
            f"{row.equal_answers:.0%}",
        )
    output().print(table)
    verdict, style = ("more than", "red") if worst.loss > max_loss else ("within", "green")
    console().print(f"{worst.agent} loses most: {worst.loss:+.4f}, {verdict} {max_loss:g}", style=style)
