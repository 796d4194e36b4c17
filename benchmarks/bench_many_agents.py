"""How long a fleet of a thousand agents takes to learn one more, and to forget one.

    python benchmarks/bench_many_agents.py [--agents 1000] [--examples 10]

Agents are made of made-up words: each has a few of its own, and all share the rest. The last line is JSON.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable

from _common import print_result

from adaptive_lora.router.encoder import load_encoder
from adaptive_lora.router.router import Router

VERBS = ["show", "find", "write", "explain", "compare", "translate", "check", "count", "order", "plan"]
SYLLABLES = ["ba", "ko", "mi", "ne", "ru", "sa", "ti", "vo", "la", "du", "pe", "gi"]
REPEATS = 5


def make_examples(n_agents: int, n_examples: int, rng: random.Random) -> dict[str, list[str]]:
    def word() -> str:
        return "".join(rng.choices(SYLLABLES, k=3))

    shared = [word() for _ in range(500)]
    examples = {}
    for number in range(n_agents):
        own = [word() for _ in range(4)]
        examples[f"agent-{number}"] = [
            " ".join([rng.choice(VERBS), "the", *rng.choices(own, k=2), "of", *rng.choices(shared, k=3)])
            for _ in range(n_examples)
        ]
    return examples


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--examples", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    examples = make_examples(args.agents, args.examples, random.Random(args.seed))
    encoder = load_encoder()
    if encoder is None:
        sys.exit("models/encoder is missing: run `make encoder`")
    start = time.perf_counter()
    router = Router.fit(examples, encoder=encoder, seed=args.seed)
    fit_s = time.perf_counter() - start
    print(f"fitted in {fit_s:.1f} s", file=sys.stderr, flush=True)
    names = random.Random(args.seed).sample(sorted(examples), REPEATS)
    smaller = {name: router.without_agent(name) for name in names}
    prompt = examples[names[0]][0]
    router.route(prompt)
    result = {
        "agents": args.agents,
        "examples_per_agent": args.examples,
        "fit_s": round(fit_s, 1),
        "add_s": round(
            statistics.median(
                seconds(lambda name=name: smaller[name].with_agent(name, examples[name])) for name in names
            ),
            3,
        ),
        "remove_s": round(
            statistics.median(seconds(lambda name=name: router.without_agent(name)) for name in names), 3
        ),
        "decision_ms": round(
            1000 * statistics.median(seconds(lambda: router.route(prompt)) for _ in range(50)), 2
        ),
        "size_mb": round(router.size_bytes / 1e6, 1),
    }
    print_result({"many_agents": result}, seed=args.seed)


if __name__ == "__main__":
    main()
