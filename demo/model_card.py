"""Puts measured scores into the fleet's model card, between its two markers, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from demo.tasks.example import DOMAINS

BEGIN, END = "<!-- scores: begin -->", "<!-- scores: end -->"


def table(result: dict[str, Any]) -> str:
    """The result of `demo.evaluate` as Markdown."""
    rows = [f"| | {' | '.join(DOMAINS)} |", "|---" * (len(DOMAINS) + 1) + "|"]
    for agent, scores in result["matrix"].items():
        rows.append(f"| {agent} | " + " | ".join(f"{scores[d] * 100:.1f} %" for d in DOMAINS) + " |")
    summary = (
        f"Prompts: {result['n']} generated, held out. "
        f"Mean of the agents at home: {result['oracle'] * 100:.1f} %; "
        f"mean when the router chooses: {result['auto'] * 100:.1f} %. "
        f"Written by hand (reported apart): {result['handwritten'] * 100:.1f} % when the router chooses, "
        f"{result['handwritten_oracle'] * 100:.1f} % by the domain's own agent."
    )
    return "\n".join([*rows, "", summary])


def write_scores(card: Path, result: dict[str, Any]) -> None:
    """Replace what stands between the markers. Raises ValueError for a card without them."""
    text = card.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{card} has no {BEGIN} ... {END}")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    card.write_text(f"{before}{BEGIN}\n{table(result)}\n{END}{after}", encoding="utf-8")
