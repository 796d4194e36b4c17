"""Score base, agents and the router's choice on the held-out sets, on vLLM. The last line on stdout is JSON.

{"matrix": {"base": {"reasoning": 0.12, ...}, ..., "auto": {...}}, "oracle": 0.93, "auto": 0.92,
"handwritten": 0.8, "n": 1000}: `oracle` is the mean of each agent's score at home, `auto` the mean over the
domains when the router chooses (the base answers where it abstains), `handwritten` the share of the prompts
written by hand that `auto` answers right, and `n` counts the generated prompts alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adaptive_lora.adapters.base import describe_base
from adaptive_lora.adapters.catalog import load_catalog
from adaptive_lora.engine.base import Engine
from adaptive_lora.router.encoder import load_encoder
from adaptive_lora.router.router import Router
from adaptive_lora.types import BASE, AdapterVersion, ChatMessage, SamplingConfig
from demo import checks, data, sandbox
from demo.model_card import write_scores
from demo.tasks.example import DOMAINS

FLEET = Path(__file__).with_name("fleet")
BASE_MODEL_NAME = "adaptive-lora/demo-base"
MAX_TOKENS = 128


def say(text: str) -> None:
    """Progress goes to stderr; stdout is for the result."""
    print(text, file=sys.stderr, flush=True)


async def answer(
    engine: Engine, prompts: Sequence[str], agents: Sequence[str], adapters: dict[str, AdapterVersion]
) -> list[str]:
    """Greedy answers to chat prompts, each by its own agent."""
    completions = await engine.generate_batch(
        [(ChatMessage("user", prompt),) for prompt in prompts],
        SamplingConfig(max_tokens=MAX_TOKENS, temperature=0.0),
        [None if agent == BASE else adapters[agent].id for agent in agents],
    )
    return [completion.text for completion in completions]


async def evaluate(fleet: Path, n: int, dtype: str) -> dict[str, Any]:
    """The result described above, with `n` prompts per domain."""
    from adaptive_lora.engine.vllm import VLLMInferenceEngine

    if not sandbox.available():
        raise SystemExit(
            "model-written code cannot be confined on this machine, so the code domain cannot be scored"
        )
    base = fleet / "base"
    catalog = load_catalog(fleet / "adapters", base=describe_base(BASE_MODEL_NAME, base), max_rank=16)
    adapters = {version.name: version for version in catalog.versions}
    if missing := set(DOMAINS) - set(adapters):
        raise SystemExit(f"adapters missing or rejected: {sorted(missing)} {dict(catalog.rejected)}")
    router = Router.fit(
        {name: version.examples for name, version in adapters.items()},
        encoder=load_encoder(),
        descriptions={name: version.description for name, version in adapters.items()},
    )
    sets = {domain: data.held_out_set(domain, n) for domain in DOMAINS}

    engine = VLLMInferenceEngine(
        model_name=str(base), max_loras=4, max_cpu_loras=4, max_lora_rank=16, dtype=dtype
    )
    say("starting vLLM")
    await engine.start()
    try:
        for version in catalog.versions:
            await engine.load(version)
        matrix: dict[str, dict[str, float]] = {}
        for agent in (BASE, *DOMAINS, "auto"):
            row = {}
            for domain in DOMAINS:
                began = time.monotonic()
                prompts = [e.prompt for e in sets[domain]]
                agents = [router.route(p).agent if agent == "auto" else agent for p in prompts]
                answers = await answer(engine, prompts, agents, adapters)
                verdicts = checks.score(domain, answers, [e.check for e in sets[domain]])
                row[domain] = round(sum(verdicts) / len(verdicts), 4)
                say(f"{agent:>9} on {domain:<9} {row[domain]:.3f}  {time.monotonic() - began:.0f} s")
            matrix[agent] = row
        by_hand = data.handwritten()
        agents = [router.route(row["prompt"]).agent for row in by_hand]
        hand_auto = await score_handwritten(engine, by_hand, agents, adapters)
        hand_home = await score_handwritten(engine, by_hand, [row["domain"] for row in by_hand], adapters)
    finally:
        await engine.stop()
    say(f"handwritten, right by domain: auto {counts(hand_auto)}, own agent {counts(hand_home)}")
    return {
        "matrix": matrix,
        "oracle": round(sum(matrix[d][d] for d in DOMAINS) / len(DOMAINS), 4),
        "auto": round(sum(matrix["auto"].values()) / len(DOMAINS), 4),
        "handwritten": round(sum(sum(v) for v in hand_auto.values()) / len(by_hand), 4),
        "handwritten_oracle": round(sum(sum(v) for v in hand_home.values()) / len(by_hand), 4),
        "n": sum(len(s) for s in sets.values()),
    }


async def score_handwritten(
    engine: Engine, rows: Sequence[dict[str, Any]], agents: Sequence[str], adapters: dict[str, AdapterVersion]
) -> dict[str, list[bool]]:
    """Verdicts on the prompts written by hand, by domain."""
    answers = await answer(engine, [row["prompt"] for row in rows], agents, adapters)
    verdicts = {}
    for domain in DOMAINS:
        mine = [i for i, row in enumerate(rows) if row["domain"] == domain]
        verdicts[domain] = checks.score(domain, [answers[i] for i in mine], [rows[i]["check"] for i in mine])
    return verdicts


def counts(verdicts: dict[str, list[bool]]) -> dict[str, str]:
    """Right answers of all, by domain."""
    return {domain: f"{sum(v)}/{len(v)}" for domain, v in verdicts.items()}


def main() -> None:
    """`python -m demo.evaluate`"""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fleet", type=Path, default=FLEET)
    parser.add_argument("--n", type=int, default=data.N_TEST, help="prompts per domain")
    parser.add_argument("--dtype", default="auto", help="vLLM's dtype; auto takes the weights' own, bfloat16")
    parser.add_argument("--card", action="store_true", help="write the scores into the fleet's README.md")
    arguments = parser.parse_args()
    result = asyncio.run(evaluate(arguments.fleet, arguments.n, arguments.dtype))
    if arguments.card:
        write_scores(arguments.fleet / "README.md", result)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
