"""What is asked for: agents by Zipf's law, each with prompts of its own, and how long answers may be."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adaptive_lora.agents.names import AUTO
from adaptive_lora.errors import InvalidRequest
from adaptive_lora.types import BASE

MAX_TOKENS = 1_000_000
MAX_LISTED = 20
"""Names in a message."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request."""

    agent: str
    prompt: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """How many tokens an answer may have: `low` to `high`, each as likely as the other."""

    low: int
    high: int

    def draw(self, rng: random.Random) -> int:
        return rng.randint(self.low, self.high)


def parse_lengths(text: str) -> Lengths:
    """`64` or `16-256`. Raises InvalidRequest."""
    found = re.fullmatch(r"(\d{1,7})(?:-(\d{1,7}))?", text)
    if found is not None:
        low, high = int(found[1]), int(found[2] or found[1])
        if 1 <= low <= high <= MAX_TOKENS:
            return Lengths(low, high)
    raise InvalidRequest(f"{text!r} is no number of tokens: say 64, or 16-256")


def zipf_weights(n: int, exponent: float) -> list[float]:
    """Shares of `n` agents, the most asked for first: that of rank r is proportional to r ** -exponent."""
    weights = [rank**-exponent for rank in range(1, n + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]


def choose_prompts(
    examples: Mapping[str, Sequence[str]], served: Sequence[str], agents: Sequence[str] | None
) -> dict[str, Sequence[str]]:
    """The prompts of `agents`, or of all that have `examples` and are served; any suits `auto` and `base`.

    Raises InvalidRequest for an agent that is not served, or has no prompts.
    """
    examples = {name: prompts for name, prompts in examples.items() if prompts}
    every = [prompt for prompts in examples.values() for prompt in prompts]
    if agents is None:
        agents = [name for name in examples if name in served]
        if not agents:
            raise InvalidRequest(
                f"the server shows none of {_listed(examples)}: choose --prompts or --agents"
            )
    chosen: dict[str, Sequence[str]] = {}
    for name in agents:
        if name not in served:
            bare = [each for each in served if "@" not in each]
            raise InvalidRequest(
                f"the server does not show {name!r} to this caller; it shows {_listed(bare)}"
            )
        chosen[name] = every if name in (AUTO, BASE) else examples.get(name.partition("@")[0], ())
        if not chosen[name]:
            raise InvalidRequest(f"there are no prompts for {name!r}: choose --prompts or --agents")
    return chosen


def _listed(names: Iterable[str]) -> str:
    first = list(itertools.islice(names, MAX_LISTED + 1))
    return ", ".join(first[:MAX_LISTED]) + (", ..." if len(first) > MAX_LISTED else "")


class Workload:
    """An endless sequence of requests, the same for the same seed."""

    def __init__(
        self,
        prompts: Mapping[str, Sequence[str]],
        lengths: Lengths,
        *,
        zipf: float,
        seed: int,
        repeat: bool = False,
    ) -> None:
        """`prompts` of each agent, the most asked for first. Every prompt gets a number at its end, so that
        no answer is a kept one, unless `repeat`."""
        self._prompts = prompts
        self._agents = list(prompts)
        self._weights = zipf_weights(len(prompts), zipf)
        self._lengths = lengths
        self._repeat = repeat
        self._rng = random.Random(seed)
        self._n = 0

    def next(self) -> Ask:
        rng = self._rng
        agent = rng.choices(self._agents, self._weights)[0]
        prompt = rng.choice(self._prompts[agent])
        self._n += 1
        return Ask(agent, prompt if self._repeat else f"{prompt} [{self._n}]", self._lengths.draw(rng))
