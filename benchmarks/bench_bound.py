"""Whether the error bound holds: many draws of calibration and test prompts, one router.

    python benchmarks/bench_bound.py DATA [--shots 10] [--resamplings 50] [--max-error 0.05]

DATA as for bench_routing.py. val.jsonl and test.jsonl are pooled and split anew each time, as large as they
are; so are the out-of-scope prompts of oos_test.jsonl, by bootstrap. The bound may break in 5 % of the draws
by its own promise. The last line is JSON.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from _common import print_result
from bench_routing import draw

from adaptive_lora.router.encoder import OnnxEncoder, Reading, load_encoder
from adaptive_lora.router.router import Router
from adaptive_lora.training.router_data import by_label, read_labelled
from adaptive_lora.types import BASE


class Remembering:
    """An encoder that reads each text once."""

    def __init__(self, encoder: OnnxEncoder) -> None:
        self._encoder = encoder
        self._known: dict[str, Reading] = {}
        self.n_dims, self.version, self.words = encoder.n_dims, encoder.version, encoder.words

    def read(self, prompt: str) -> Reading:
        if prompt not in self._known:
            self._known[prompt] = self._encoder.read(prompt)
        return self._known[prompt]


def agents_of(router: Router, prompts: list[str]) -> np.ndarray:
    return np.array([decision.agent for decision in router.decide(router.score(prompts))])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--shots", default="10")
    parser.add_argument("--resamplings", type=int, default=50)
    parser.add_argument("--max-error", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    encoder = load_encoder()
    if encoder is None:
        sys.exit("models/encoder is missing: run `make encoder`")
    train, val, test, oos = (
        read_labelled(args.data / f"{name}.jsonl") for name in ("train", "val", "test", "oos_test")
    )
    val, test = ([row for row in rows if row.label is not None] for rows in (val, test))
    pool = val + test
    away = [row.prompt for row in oos if row.label is None]
    shots = None if args.shots == "all" else int(args.shots)
    random = np.random.default_rng(args.seed)
    fitted: Router | None = None
    draws: list[tuple[float, float, float]] = []
    for number in range(args.resamplings):
        order = random.permutation(len(pool))
        held, seen = ([pool[i] for i in part] for part in (order[: len(val)], order[len(val) :]))
        held_out = [(row.prompt, row.label or "") for row in held]
        if fitted is None:
            fitted = Router.fit(
                by_label(draw(train, shots, args.seed)), encoder=Remembering(encoder), held_out=held_out
            )
        router = fitted.recalibrated(held_out, max_error=args.max_error)
        answers = agents_of(router, [row.prompt for row in seen])
        routed = answers != BASE
        wrong = routed & (answers != np.array([row.label for row in seen]))
        rejected = agents_of(router, [away[i] for i in random.integers(len(away), size=len(away))]) == BASE
        draws.append(
            (float(routed.mean()), float(wrong.sum() / max(1, routed.sum())), float(rejected.mean()))
        )
        print(f"{number}: coverage, error, rejected {draws[-1]}", file=sys.stderr, flush=True)
    coverage, error, rejected = np.array(draws).T
    result: dict[str, Any] = {
        "max_error": args.max_error,
        "shots": args.shots,
        "resamplings": args.resamplings,
        "broken": round(float((error > args.max_error).mean()), 4),
        "error": {"mean": round(float(error.mean()), 4), "largest": round(float(error.max()), 4)},
        "coverage": {"mean": round(float(coverage.mean()), 4), "smallest": round(float(coverage.min()), 4)},
        "oos_rejected": {
            "mean": round(float(rejected.mean()), 4),
            "smallest": round(float(rejected.min()), 4),
        },
    }
    print_result({"bound": result}, seed=args.seed)


if __name__ == "__main__":
    main()
