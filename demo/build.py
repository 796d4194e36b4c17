"""Build the demo fleet from nothing: tokenizer, base, four agents, manifests. `make demo-fleet` runs this.

Seeds are fixed; another CPU or thread timing rounds differently, so the weights are alike, not identical.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from adaptive_lora.adapters.manifest import base_fingerprint, write_manifest
from adaptive_lora.training.lora import LoraReport, LoraSettings, train_lora
from demo import data, tokenizer
from demo.evaluate import BASE_MODEL_NAME, FLEET
from demo.pretrain import pretrain
from demo.tasks.example import DOMAINS

SEED = 1
BASE_STEPS = 2500
N_EXAMPLES = {"reasoning": 92_000, "code": 26_000, "creative": 56_000, "analysis": 39_000}


def say(text: str) -> None:
    """Progress, line by line."""
    print(text, flush=True)


def build_base(folder: Path, steps: int) -> None:
    """Train the tokenizer, then the base model, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    tokenizer.save(tokenizer.train(SEED), folder)
    say(f"tokenizer: {time.monotonic() - began:.0f} s")
    pretrain(folder, steps=steps, seed=SEED)


def build_adapter(
    domain: str, fleet: Path, settings: LoraSettings, n_examples: int, more: int | None = None
) -> LoraReport:
    """Generate the agent's data, train it on `fleet`/base, and write its manifest.

    `more` is the seed of further data, to go on from the agent that is there.
    """
    folder = fleet / "adapters" / domain
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"{domain}.jsonl"
        data.write_training_file(domain, path, n_examples, SEED if more is None else more)
        report = train_lora(
            fleet / "base",
            path,
            folder,
            settings,
            base_model_name=BASE_MODEL_NAME,
            start=None if more is None else folder,
            progress=lambda line: say(f"{domain}: {line}"),
        )
    describe_adapter(domain, fleet)
    say(f"{domain}: {json.dumps(asdict(report))}")
    return report


def describe_adapter(domain: str, fleet: Path) -> None:
    """Write the agent's manifest."""
    write_manifest(
        fleet / "adapters" / domain,
        name=domain,
        description=data.DESCRIPTIONS[domain],
        examples=data.manifest_examples(domain),
        probes=data.manifest_probes(domain),
        base_model=BASE_MODEL_NAME,
        base_fingerprint=base_fingerprint(fleet / "base"),
    )


def main() -> None:
    """`python -m demo.build`; --only builds a part again on what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleet", type=Path, default=FLEET)
    parser.add_argument("--only", choices=("base", *DOMAINS), nargs="*", default=("base", *DOMAINS))
    parser.add_argument("--steps", type=int, default=BASE_STEPS, help="steps of pre-training")
    parser.add_argument("--examples", type=int, help="examples per agent, in place of the default")
    parser.add_argument("--more", type=int, metavar="SEED", help="go on from the agents, with other examples")
    parser.add_argument("--jobs", type=int, default=1, help="agents trained at the same time")
    arguments = parser.parse_args()
    began = time.monotonic()
    if "base" in arguments.only:
        build_base(arguments.fleet / "base", arguments.steps)
    shutil.copy(Path(__file__).with_name("model_card.md"), arguments.fleet / "README.md")
    domains = [d for d in DOMAINS if d in arguments.only]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(
            pool.map(
                lambda d: build_adapter(
                    d, arguments.fleet, LoraSettings(), arguments.examples or N_EXAMPLES[d], arguments.more
                ),
                domains,
            )
        )
    say(f"fleet built in {time.monotonic() - began:.0f} s: {arguments.fleet}")
    say("scores, and the model card's table: python -m demo.evaluate --card")


if __name__ == "__main__":
    main()
