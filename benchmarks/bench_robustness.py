"""The router against typing errors and against prefixes that are optimised to mislead it.

    python benchmarks/bench_robustness.py DATA [--shots 10] [--prompts 100] [--max-error 0.05]

DATA as for bench_routing.py. Typos: each pair of neighbouring letters of a test prompt is swapped with
probability 0.1; look-alikes: three letters in ten that have one are Cyrillic.

Attack: eight words are put before a test prompt that is routed rightly, to send it to any
wrong agent above the thresholds. The attacker knows the router and asks it as often as it likes: it starts
from the beginnings of other agents' examples, and then replaces one word at a time by whatever word of the
target's examples brings the score nearest to success. It is run against the router as it is ("defended":
later parts of a prompt are read alone), against the same without that, and against the head with its
confidence threshold alone ("undefended"), each with the score that it is judged by. The last line is JSON.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _common import print_result
from bench_routing import draw

from adaptive_lora.router.calibration import Calibration
from adaptive_lora.router.encoder import load_encoder
from adaptive_lora.router.policy import Scores
from adaptive_lora.router.router import Router
from adaptive_lora.training.router_data import by_label, read_labelled
from adaptive_lora.types import BASE

N_TOKENS = 8
N_TARGETS, N_BEGINNINGS = 40, 2
N_STARTS, N_SWEEPS, N_WORDS = 3, 2, 12


def swap_letters(text: str, random: np.random.Generator, share: float = 0.1) -> str:
    """Each pair of neighbouring letters is swapped with probability `share`, none twice."""
    letters = list(text)
    i = 0
    while i + 1 < len(letters):
        if letters[i].isalpha() and letters[i + 1].isalpha() and random.random() < share:
            letters[i], letters[i + 1] = letters[i + 1], letters[i]
            i += 1
        i += 1
    return "".join(letters)


LOOK_ALIKES = str.maketrans("aceopxyi", "\u0430\u0441\u0435\u043e\u0440\u0445\u0443\u0456")
"""Cyrillic letters for Latin ones."""


def disguise(text: str, random: np.random.Generator, share: float = 0.3) -> str:
    """Each letter that has a Cyrillic look-alike is replaced by it with probability `share`."""
    return "".join(c.translate(LOOK_ALIKES) if random.random() < share else c for c in text)


def success(scores: Scores, calibration: Calibration, row: int, own: int) -> float:
    """How near a prompt is to being routed to a wrong agent; at least 0 if it is."""
    shares = scores.probabilities[row].copy()
    shares[own] = 0
    wrong = float(shares.max())
    margins = [wrong - calibration.min_confidence, wrong - float(scores.probabilities[row, own])]
    if np.isfinite(calibration.min_familiarity):
        margins.append(float(scores.familiarity[row]) - calibration.min_familiarity)
    dissent = scores.dissents[row]
    if dissent is not None:
        margins.append((calibration.max_dissent - dissent.strength) / 10 - 1e-9)
    return min(margins)


class Attacker:
    def __init__(self, router: Router, examples: dict[str, list[str]], seed: int) -> None:
        self._router = router
        self._examples = examples
        self._random = np.random.default_rng(seed)
        self.n_queries = 0

    def attack(self, prompt: str, truth: str) -> bool:
        """Whether a prefix was found that moves `prompt` to a wrong agent above the thresholds."""
        random = self._random
        others = [agent for agent in self._router.agents if agent != truth]
        targets = [others[i] for i in random.permutation(len(others))[:N_TARGETS]]
        starts: list[tuple[str, list[str]]] = []
        for target in targets:
            own = self._examples[target]
            for i in random.permutation(len(own))[:N_BEGINNINGS]:
                words = own[i].split()
                starts.append((target, (words * N_TOKENS)[:N_TOKENS]))
        values = self._values([words for _, words in starts], prompt, truth)
        for start in np.argsort(-values)[:N_STARTS]:
            target, words = starts[start]
            value = values[start]
            vocabulary = sorted({word for text in self._examples[target] for word in text.split()})
            for position in list(range(N_TOKENS)) * N_SWEEPS:
                if value >= 0:
                    return True
                tried = [
                    [*words[:position], word, *words[position + 1 :]]
                    for word in random.choice(vocabulary, min(N_WORDS, len(vocabulary)), replace=False)
                ]
                found = self._values(tried, prompt, truth)
                if found.max() > value:
                    value, words = found.max(), tried[int(found.argmax())]
            if value >= 0:
                return True
        return False

    def _values(self, prefixes: Sequence[Sequence[str]], prompt: str, truth: str) -> np.ndarray:
        self.n_queries += len(prefixes)
        scores = self._router.score([f"{' '.join(prefix)} {prompt}" for prefix in prefixes])
        own = scores.candidates.index(truth)
        calibration = self._router.calibration
        return np.array([success(scores, calibration, row, own) for row in range(len(prefixes))])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--shots", default="10")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--max-error", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="test", choices=["val", "test"], help="val: for development")
    args = parser.parse_args()
    train, val, test = (read_labelled(args.data / f"{name}.jsonl") for name in ("train", "val", args.split))
    encoder = load_encoder()
    if encoder is None:
        sys.exit("models/encoder is missing: run `make encoder`")
    examples = by_label(draw(train, None if args.shots == "all" else int(args.shots), args.seed))
    held_out = [(row.prompt, row.label) for row in val if row.label is not None]
    defended = Router.fit(
        examples, encoder=encoder, held_out=held_out, max_error=args.max_error, seed=args.seed
    )
    bare = replace(defended.calibration, max_dissent=np.inf)
    routers = {
        "defended": defended,
        "without_parts": Router(defended.examples, encoder, defended.stages, bare),
        "undefended": Router(
            defended.examples, encoder, defended.stages, replace(bare, min_familiarity=-np.inf)
        ),
    }
    random = np.random.default_rng(args.seed)
    inside = [row for row in test if row.label is not None]
    prompts, truth = [row.prompt for row in inside], [row.label or "" for row in inside]
    result: dict[str, Any] = {"max_error": args.max_error, "shots": args.shots}

    written = {
        "clean": prompts,
        "typos": [swap_letters(prompt, random) for prompt in prompts],
        "upper case": [prompt.upper() for prompt in prompts],
        "Cyrillic look-alikes": [disguise(prompt, random) for prompt in prompts],
    }
    result["top1"] = {}
    for kind, texts in written.items():
        scores = defended.score(texts)
        best = [scores.candidates[i] for i in scores.probabilities.argmax(axis=1)]
        result["top1"][kind] = round(float(np.mean([a == b for a, b in zip(best, truth, strict=True)])), 4)
    print(result["top1"], file=sys.stderr, flush=True)

    for name, router in routers.items():
        answers = [decision.agent for decision in router.decide(router.score(prompts))]
        right = [i for i, (a, b) in enumerate(zip(answers, truth, strict=True)) if a == b]
        chosen = random.permutation(len(right))[: args.prompts]
        attacker = Attacker(router, examples, args.seed)
        moved = [attacker.attack(prompts[right[i]], truth[right[i]]) for i in chosen]
        result[name] = {
            "coverage_clean": round(float(np.mean([a != BASE for a in answers])), 4),
            "error_clean": round(
                sum(a not in (BASE, b) for a, b in zip(answers, truth, strict=True))
                / max(1, sum(a != BASE for a in answers)),
                4,
            ),
            "moved": round(float(np.mean(moved)), 4),
            "n_attacked": len(moved),
            "queries_per_prompt": round(attacker.n_queries / len(moved), 1),
        }
        print(name, result[name], file=sys.stderr, flush=True)
    print_result({"robustness": result}, seed=args.seed)


if __name__ == "__main__":
    main()
