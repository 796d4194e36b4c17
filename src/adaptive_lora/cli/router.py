"""adaptive-lora router fit | calibrate | explain | add | remove | history | rollback | evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from adaptive_lora.cli.common import (
    AsJson,
    check_writable,
    console,
    finite,
    output,
    print_json,
    write_text,
)
from adaptive_lora.cli.route import print_decision
from adaptive_lora.errors import InvalidRequest

if TYPE_CHECKING:
    from adaptive_lora.router.bundle import Bundle, BundleStore

app = typer.Typer(help="The router: train, measure and ask it; keep its versions.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Folder of router bundles.")]
MaxError = Annotated[
    float | None, typer.Option(min=0.001, max=0.999, help="Bound on wrong agents among routed prompts.")
]
UseEncoder = Annotated[bool, typer.Option("--encoder/--no-encoder", help="Or n-grams alone.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the cross-fitting.")]


@app.callback()
def _group() -> None:
    """Prompts are JSONL, one {"prompt": ..., "label": ...} a line; label null is out of scope."""


@app.command("fit")
def fit(
    folder: Folder = Path("runs/router"),
    train: Annotated[
        str, typer.Option("--train", help="'demo', a folder of adapters, or JSONL of labelled prompts.")
    ] = "demo",
    calibrate: Annotated[
        Path | None, typer.Option("--calibrate", help="Prompts for the thresholds; default: cross-fitting.")
    ] = None,
    test: Annotated[
        Path | None, typer.Option("--test", help="Prompts to measure on; default: a fifth of --train.")
    ] = None,
    oos: Annotated[Path | None, typer.Option("--oos", help="Prompts that no agent is for.")] = None,
    max_error: MaxError = None,
    use_encoder: UseEncoder = True,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Learn from example prompts; write a bundle, which becomes current, and a report."""
    from adaptive_lora.training.router import RouterTraining
    from adaptive_lora.training.router import train as train_router

    config = RouterTraining(
        examples=train,
        calibrate=calibrate,
        test=test,
        oos=oos,
        max_error=max_error,
        use_encoder=use_encoder,
        seed=seed,
        output=folder,
    )
    with console().status("reading the examples") as status:
        trained = train_router(config, progress=status.update)
    if as_json:
        print_json({"version": trained.version, "report": str(trained.report), **trained.figures})
        return
    _print_figures({"version": trained.version, "report": str(trained.report), **trained.figures})


@app.command("calibrate")
def calibrate_bundle(
    folder: Folder,
    prompts: Annotated[Path, typer.Option("--calibrate", help="Labelled prompts, not learnt from.")],
    max_error: MaxError = None,
    as_json: AsJson = False,
) -> None:
    """Set the current bundle's temperatures and thresholds from other prompts; the result becomes current."""
    from adaptive_lora.training.router_data import read_labelled

    held_out = [(row.prompt, row.label) for row in read_labelled(prompts) if row.label is not None]
    store, bundle = _open(folder)
    known = [agent in bundle.router.agents for _, agent in held_out]
    if not any(known):
        raise InvalidRequest(
            f"no prompt of {prompts} is for an agent of the bundle: {', '.join(bundle.router.agents[:8])}"
        )
    router = bundle.router.recalibrated(held_out, max_error=max_error)
    version = store.save(router, bundle.manifest.adapters, why=f"calibrated on {prompts}")
    calibration = router.calibration
    figures = {
        "version": version,
        "n_held_out": calibration.n_held_out,
        "held_out_accuracy": finite(calibration.held_out_accuracy),
        "temperatures": [round(scale.temperature, 4) for scale in calibration.scales],
        "min_confidence": finite(calibration.min_confidence),
        "min_familiarity": finite(calibration.min_familiarity),
        "max_dissent": finite(calibration.max_dissent),
        "candidate_share": round(calibration.candidate_share, 4),
    }
    if as_json:
        print_json(figures)
    else:
        _print_figures(figures)


@app.command("explain")
def explain(
    folder: Folder,
    prompt: Annotated[str, typer.Argument(help="What would be asked.")],
    version: Annotated[str | None, typer.Option(help="Bundle; default: the current one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say which agent a bundle would choose, and why."""
    if not prompt.strip():
        raise InvalidRequest("the prompt is empty")
    _, bundle = _open(folder, version)
    print_decision(bundle.router.route(prompt, explain=True), as_json=as_json)


@app.command("add")
def add(
    folder: Folder,
    agent: Annotated[str, typer.Argument(help="A new agent, or one that gets other examples.")],
    examples: Annotated[Path, typer.Option(help="JSONL of labelled prompts; other labels are ignored.")],
    description: Annotated[str, typer.Option(help="What the agent is for; counts as an example.")] = "",
) -> None:
    """Teach the current bundle one more agent, in about a second; the result becomes current."""
    from adaptive_lora.training.router_data import by_label, read_labelled

    own = by_label(read_labelled(examples)).get(agent, [])
    if not own:
        raise InvalidRequest(f"{examples} holds no prompt with the label {agent!r}")
    store, bundle = _open(folder)
    router = bundle.router.with_agent(agent, own, description=description)
    output().print(store.save(router, bundle.manifest.adapters, why=f"added {agent}"))
    if agent in router.provisional:
        console().print(f"{agent} is provisional: {router.provisional[agent]}", style="yellow", markup=False)


@app.command("remove")
def remove(folder: Folder, agent: Annotated[str, typer.Argument(help="The agent to forget.")]) -> None:
    """Make the current bundle forget an agent; the result becomes current."""
    store, bundle = _open(folder)
    adapters = {name: version for name, version in bundle.manifest.adapters.items() if name != agent}
    output().print(store.save(bundle.router.without_agent(agent), adapters, why=f"removed {agent}"))


@app.command("history")
def history(folder: Folder, as_json: AsJson = False) -> None:
    """Which bundle was current since when, oldest first."""
    from adaptive_lora.router.bundle import BundleStore

    store = BundleStore(folder)
    current = store.current()
    entries = store.history()
    if as_json:
        print_json({"current": current, "history": [entry.model_dump(mode="json") for entry in entries]})
        return
    table = Table("version", "made current", "why", box=None)
    for entry in entries:
        table.add_row(entry.version, f"{entry.at:%Y-%m-%d %H:%M:%S} UTC", entry.why)
    output().print(table)
    output().print(f"current: {current}")


@app.command("rollback")
def rollback(
    folder: Folder,
    version: Annotated[str | None, typer.Argument(help="Default: the one before the current.")] = None,
    why: Annotated[str, typer.Option(help="For the history.")] = "rolled back",
) -> None:
    """Make an earlier bundle current: adapters' versions, heads, thresholds and examples in one step."""
    from adaptive_lora.router.bundle import BundleStore

    output().print(BundleStore(folder).rollback(version, why=why))


@app.command("evaluate")
def evaluate(
    train: Annotated[Path, typer.Option("--train", help="Prompts to learn from.")],
    test: Annotated[Path, typer.Option("--test", help="Prompts to measure on.")],
    calibrate: Annotated[
        Path | None, typer.Option("--calibrate", help="Prompts for the thresholds; default: cross-fitting.")
    ] = None,
    oos: Annotated[Path | None, typer.Option("--oos", help="Prompts that no agent is for.")] = None,
    max_error: MaxError = None,
    use_encoder: UseEncoder = True,
    seed: Seed = 0,
    report: Annotated[Path | None, typer.Option(help="Also write the report with plots, as HTML.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fit on --train, and measure accuracy, calibration, abstention, latency and updates on --test."""
    from adaptive_lora.router.encoder import load_encoder
    from adaptive_lora.router.router import Router
    from adaptive_lora.training import router_evaluation
    from adaptive_lora.training.router_data import by_label, read_labelled
    from adaptive_lora.training.router_report import render_report

    if report is not None:
        check_writable("--report", report)
    examples = by_label(read_labelled(train))
    rows = read_labelled(test)
    outside = [] if oos is None else read_labelled(oos)
    held_out = None
    if calibrate is not None:
        held_out = [(row.prompt, row.label) for row in read_labelled(calibrate) if row.label is not None]
    encoder = load_encoder() if use_encoder else None
    with console().status("reading the prompts") as status:
        result = router_evaluation.evaluate(
            lambda: Router.fit(examples, encoder=encoder, held_out=held_out, seed=seed, max_error=max_error),
            examples,
            rows,
            oos=outside,
            progress=status.update,
        )
    if as_json:
        print_json(result.figures)
    else:
        _print_figures(result.figures)
    if report is not None:  # last: what was measured is told even if the disk is full
        write_text(report, render_report(result, title=f"Router on {test.name}"))


def _open(folder: Path, version: str | None = None) -> tuple[BundleStore, Bundle]:
    """A bundle, with the encoder that it was fitted with: the shipped one, or none."""
    from adaptive_lora.router.bundle import BundleStore
    from adaptive_lora.router.encoder import load_encoder

    store = BundleStore(folder)
    encoder = load_encoder() if store.manifest(version).encoder else None
    return store, store.load(version, encoder=encoder)


def _print_figures(figures: dict[str, Any]) -> None:
    table = Table(box=None, show_header=False)
    for name, value in figures.items():
        table.add_row(name, _words(value))
    output().print(table)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return "-" if value is None else str(value)
