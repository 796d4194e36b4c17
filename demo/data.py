"""The data of the four agents: training files, held-out sets, and the manifests' examples."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adaptive_lora.types import Probe
from demo.tasks import analysis, code, creative, reasoning
from demo.tasks.example import DOMAINS, Example, Split

TEST_SEED = 20_000
N_TEST = 250
HANDWRITTEN = Path(__file__).with_name("handwritten.jsonl")
MAKERS: dict[str, Callable[[random.Random, Split], Example]] = {
    "reasoning": reasoning.example,
    "code": code.example,
    "creative": creative.example,
    "analysis": analysis.example,
}
DESCRIPTIONS = {
    "reasoning": "Solves small arithmetic and word problems; states the equation, then the result.",
    "code": "Writes small Python functions from a description.",
    "creative": "Writes short poems about a topic, with the words and the number of lines asked for.",
    "analysis": "Extracts fields from a text as a JSON object.",
}


def held_out_set(domain: str, n: int = N_TEST) -> list[Example]:
    """The held-out set of a domain: the same on every machine, no prompt twice."""
    rng = random.Random(TEST_SEED + DOMAINS.index(domain))
    made: dict[str, Example] = {}
    while len(made) < n:
        one = code.example(rng, "test", with_tests=True) if domain == "code" else MAKERS[domain](rng, "test")
        made.setdefault(one.prompt, one)
    return list(made.values())


def training_set(domain: str, n: int, seed: int) -> list[Example]:
    """Examples to train the domain's agent on."""
    rng = random.Random(f"{seed}:{domain}")
    return [MAKERS[domain](rng, "train") for _ in range(n)]


def write_training_file(domain: str, path: Path, n: int, seed: int) -> None:
    """Write JSON Lines for `adaptive_lora.training.lora`; every fourth row is a plain completion of its
    prompt.
    """
    with path.open("w", encoding="utf-8") as file:
        for i, e in enumerate(training_set(domain, n, seed)):
            row: dict[str, Any] = {"prompt": e.prompt, "completion": e.completion}
            if i % 4 == 0:
                row = {"prompt": e.prompt, "completion": "\n" + e.completion, "plain": True}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def manifest_examples(domain: str, n: int = 80, seed: int = 7) -> list[str]:
    """Prompts for the agent's manifest, from the training part: one for each frame before any comes twice."""
    unused: dict[str, str] = {}
    extra: list[str] = []
    for e in training_set(domain, 1500, seed):
        frame = e.template.split(" || ")[0].split("|")[0]
        if frame in unused:
            extra.append(e.prompt)
        else:
            unused[frame] = e.prompt
    return [*unused.values(), *dict.fromkeys(extra)][:n]


def manifest_probes(domain: str, n: int = 16, seed: int = 8) -> list[Probe]:
    """Prompts with their answers, from the training part: what the server proves the agent on."""
    return [Probe(e.prompt, e.completion) for e in training_set(domain, n, seed)]


def handwritten() -> list[dict[str, Any]]:
    """The prompts written by hand, as {"domain", "prompt", "check"}; nothing is trained or tuned on them."""
    return [json.loads(line) for line in HANDWRITTEN.read_text(encoding="utf-8").splitlines() if line.strip()]
