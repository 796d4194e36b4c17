"""The examples that a head learns from: cleaned, indexed, and with a report of what was wrong with them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adaptive_lora.errors import InvalidRequest
from adaptive_lora.router.head import IntArray

MIN_EXAMPLES = 5
"""Fewer make an agent provisional."""
ADVISED_EXAMPLES = 60

_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class ExampleSet:
    """`labels[i]` is the index in `agents` of the agent that `texts[i]` is an example of."""

    agents: tuple[str, ...]
    """Agents that can be routed to, sorted; each has at least one example."""
    texts: tuple[str, ...]
    labels: IntArray
    warnings: tuple[str, ...]
    """For the operator, each with a remedy."""

    def words(self) -> frozenset[str]:
        """Every word of the examples, in lower case."""
        return frozenset(_WORD.findall(" ".join(self.texts).casefold()))

    def provisional(self) -> dict[str, str]:
        """Agents with too few examples to be routed to, and what they lack."""
        counts = np.bincount(self.labels, minlength=len(self.agents))
        return {
            agent: f"{n} usable examples, {MIN_EXAMPLES} are needed before prompts are routed to it, "
            f"{ADVISED_EXAMPLES} advised"
            for agent, n in zip(self.agents, counts.tolist(), strict=True)
            if n < MIN_EXAMPLES
        }

    def plus(self, agent: str, prompts: Sequence[str]) -> ExampleSet:
        """With one more agent, the last. Prompts that another agent claims, and repetitions, are left out.

        Raises InvalidRequest if none is left.
        """
        claimed = {_key(text) for text in self.texts} | {""}
        fresh = {_key(prompt): prompt for prompt in reversed(prompts)}
        kept = tuple(prompt for key, prompt in reversed(fresh.items()) if key not in claimed)
        if not kept:
            raise InvalidRequest(
                f"{agent} has no example of its own: give it prompts that no other agent claims"
            )
        labels = np.concatenate([self.labels, np.full(len(kept), len(self.agents), np.int64)])
        return ExampleSet((*self.agents, agent), self.texts + kept, labels, self.warnings)

    def minus(self, agent: str) -> ExampleSet:
        """Without `agent`, which must be one of them."""
        gone = self.agents.index(agent)
        keep = np.flatnonzero(self.labels != gone)
        labels = self.labels[keep] - (self.labels[keep] > gone)
        agents = self.agents[:gone] + self.agents[gone + 1 :]
        return ExampleSet(agents, tuple(self.texts[i] for i in keep), labels, self.warnings)


def collect_examples(examples: Mapping[str, Sequence[str]]) -> ExampleSet:
    """Drop repetitions, and prompts that several agents claim: they say nothing about which one is meant.

    Two prompts are the same if they differ in case and spaces only.
    """
    claims: dict[str, set[str]] = defaultdict(set)
    for agent, prompts in examples.items():
        for prompt in prompts:
            claims[_key(prompt)].add(agent)
    warnings: list[str] = []
    agents: list[str] = []
    texts: list[str] = []
    labels: list[int] = []
    for agent, prompts in sorted(examples.items()):
        own = {_key(prompt): prompt for prompt in reversed(prompts)}
        kept = [prompt for key, prompt in reversed(own.items()) if key and len(claims[key]) == 1]
        if len(own) < len(prompts):
            warnings.append(
                f"{agent}: {len(prompts) - len(own)} repeated examples ignored; replace them by new phrasings"
            )
        if contested := sorted({other for key in own for other in claims[key]} - {agent}):
            n = sum(len(claims[key]) > 1 for key in own)
            warnings.append(
                f"{agent}: {n} examples ignored that {', '.join(contested)} claims too; keep each with one "
                "agent"
            )
        if not kept:
            warnings.append(
                f"{agent}: no usable example, so it answers explicit calls only; add examples to its manifest"
            )
            continue
        if len(kept) < MIN_EXAMPLES:
            warnings.append(
                f"{agent}: only {len(kept)} usable examples, so it is provisional and answers explicit calls "
                f"only; {MIN_EXAMPLES} are needed, {ADVISED_EXAMPLES} advised"
            )
        labels += [len(agents)] * len(kept)
        agents.append(agent)
        texts += kept
    return ExampleSet(tuple(agents), tuple(texts), np.array(labels, np.int64), tuple(warnings))


def _key(prompt: str) -> str:
    return " ".join(prompt.casefold().split())
