"""adaptive-lora router evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from adaptive_lora.cli.common import AsJson, console, output, print_json

app = typer.Typer(help="The router: measure it on labelled prompts.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Prompts are JSONL, one {"prompt": ..., "label": ...} a line; label null is out of scope."""


@app.command("evaluate")
def evaluate(
    train: Annotated[Path, typer.Option("--train", help="Prompts to learn from.")],
    test: Annotated[Path, typer.Option("--test", help="Prompts to measure on.")],
    calibrate: Annotated[
        Path | None, typer.Option("--calibrate", help="Prompts for the thresholds; default: cross-fitting.")
    ] = None,
    oos: Annotated[Path | None, typer.Option("--oos", help="Prompts that no agent is for.")] = None,
    max_error: Annotated[
        float | None, typer.Option(min=0.001, max=0.999, help="Bound on wrong agents among routed prompts.")
    ] = None,
    use_encoder: Annotated[bool, typer.Option("--encoder/--no-encoder", help="Or n-grams alone.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the cross-fitting.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Fit on --train, and measure accuracy, calibration, abstention, latency and updates on --test."""
    from adaptive_lora.router.encoder import load_encoder
    from adaptive_lora.training import router_evaluation
    from adaptive_lora.training.router_data import read_labelled

    rows = {
        name: None if path is None else read_labelled(path)
        for name, path in (("train", train), ("test", test), ("calibrate", calibrate), ("oos", oos))
    }
    with console().status("reading the prompts") as status:
        result = router_evaluation.evaluate(
            rows["train"] or [],
            rows["test"] or [],
            calibrate=rows["calibrate"],
            oos=rows["oos"] or [],
            encoder=load_encoder() if use_encoder else None,
            max_error=max_error,
            seed=seed,
            progress=status.update,
        )
    if as_json:
        print_json(result.figures)
        return
    table = Table(box=None, show_header=False)
    for name, value in result.figures.items():
        table.add_row(name, _words(value))
    output().print(table)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return "-" if value is None else str(value)
