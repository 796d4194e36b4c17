"""Train a router from files: examples in, a versioned bundle and a report out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adaptive_lora import demo_fleet
from adaptive_lora.adapters.manifest import read_manifest
from adaptive_lora.errors import InvalidRequest, SettingsError
from adaptive_lora.router.bundle import BundleStore
from adaptive_lora.router.encoder import load_encoder
from adaptive_lora.router.router import Router
from adaptive_lora.training.router_data import LabelledPrompt, by_label, read_labelled
from adaptive_lora.training.router_evaluation import Progress, evaluate
from adaptive_lora.training.router_report import render_report

HELD_OUT = 0.2
"""Share of the examples to measure on, where there is no test file."""


class RouterTraining(BaseModel):
    """configs/router/training_config.yaml. Paths are relative to the working directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    examples: str = demo_fleet.DEMO
    """`demo`, a folder of adapters, or a .jsonl file of {"prompt": ..., "label": ...}."""
    calibrate: Path | None = None
    """Labelled prompts for the thresholds; None: the examples are cross-fitted."""
    test: Path | None = None
    """Labelled prompts to measure on; None: a fifth of the examples, which are learnt from afterwards."""
    oos: Path | None = None
    """Prompts that no agent is for (label null), to measure on."""
    max_error: Annotated[float, Field(gt=0, lt=1)] | None = None
    min_confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    use_encoder: bool = True
    encoder_path: Path | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    output: Path = Path("runs/router")
    """Folder of bundles; the new one becomes current."""
    report: Path | None = None
    """HTML file; None: report.html in `output`."""


@dataclass(frozen=True, slots=True)
class TrainingExamples:
    prompts: Mapping[str, Sequence[str]]
    """Per agent."""
    descriptions: Mapping[str, str]
    adapters: Mapping[str, str]
    """Version per adapter; empty for labelled prompts."""


@dataclass(frozen=True, slots=True)
class TrainedRouter:
    version: str
    """Of the bundle."""
    figures: dict[str, Any]
    report: Path


def load_config(path: Path) -> RouterTraining:
    """Raises SettingsError that names the key."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return RouterTraining.model_validate(tree)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        keys = ", ".join(RouterTraining.model_fields)
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SettingsError(f"{path}: {wrong}; the keys are {keys}") from error


def read_examples(source: str) -> TrainingExamples:
    """What `RouterTraining.examples` names. Raises InvalidRequest if there is none."""
    if source.endswith(".jsonl"):
        return TrainingExamples(by_label(read_labelled(Path(source))), {}, {})
    folder = demo_fleet.folder() / "adapters" if source == demo_fleet.DEMO else Path(source)
    manifests = [
        read_manifest(path) for path in (sorted(folder.iterdir()) if folder.is_dir() else ()) if path.is_dir()
    ]
    if not manifests:
        raise InvalidRequest(
            f"{source!r} is neither 'demo', nor a .jsonl file, nor a folder of adapters with manifests"
        )
    return TrainingExamples(
        {m.name: m.examples for m in manifests},
        {m.name: m.description for m in manifests},
        {m.name: m.version for m in manifests},
    )


def train(config: RouterTraining, *, progress: Progress = lambda text: None) -> TrainedRouter:
    """Measure on held-out prompts, write report and bundle, and make the bundle current."""
    examples = read_examples(config.examples)
    encoder = load_encoder(config.encoder_path) if config.use_encoder else None
    calibrate = None if config.calibrate is None else read_labelled(config.calibrate)
    held_out = None if calibrate is None else [(r.prompt, r.label) for r in calibrate if r.label is not None]

    def fit(prompts: Mapping[str, Sequence[str]]) -> Router:
        return Router.fit(
            prompts,
            encoder=encoder,
            descriptions=examples.descriptions,
            held_out=held_out,
            seed=config.seed,
            min_confidence=config.min_confidence,
            max_error=config.max_error,
        )

    if config.test is None:
        learnt, test = _hold_out(examples.prompts, config.seed)
    else:
        learnt, test = examples.prompts, read_labelled(config.test)
    oos = [] if config.oos is None else read_labelled(config.oos)
    evaluation = evaluate(lambda: fit(learnt), learnt, test, oos=oos, progress=progress)
    progress("fitting on all examples")
    router = fit(examples.prompts)
    progress("writing the bundle")
    version = BundleStore(config.output).save(router, examples.adapters, why=f"trained on {config.examples}")
    report = config.report or config.output / "report.html"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(render_report(evaluation, title=f"Router {version}"), encoding="utf-8")
    return TrainedRouter(version, evaluation.figures, report)


def _hold_out(
    prompts: Mapping[str, Sequence[str]], seed: int
) -> tuple[Mapping[str, Sequence[str]], list[LabelledPrompt]]:
    """Keep a fifth of each agent's prompts for the test."""
    random = np.random.default_rng(seed)
    learnt, test = {}, []
    for agent, own in prompts.items():
        order = random.permutation(len(own))
        n_test = int(HELD_OUT * len(own))
        test += [LabelledPrompt(own[i], agent) for i in order[:n_test]]
        learnt[agent] = [own[i] for i in sorted(order[n_test:])]
    if not test:
        raise InvalidRequest("too few examples to hold out a fifth of them: give a test file")
    return learnt, test
