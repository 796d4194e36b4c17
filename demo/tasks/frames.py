"""Phrasing frames: a frame is a sentence with {slots}; each list has a training and a held-out part."""

from __future__ import annotations

import random
from dataclasses import dataclass

from demo.tasks.example import Split


@dataclass(frozen=True)
class Frames:
    """Frames of one kind of request. Training and held-out frames never mix."""

    train: tuple[str, ...]
    test: tuple[str, ...]

    def pick(self, rng: random.Random, split: Split) -> str:
        """A random frame of `split`."""
        return rng.choice(self.train if split == "train" else self.test)


def frames(train: str, test: str) -> Frames:
    """One frame a line."""

    def lines(text: str) -> tuple[str, ...]:
        return tuple(line.strip() for line in text.strip().splitlines())

    return Frames(lines(train), lines(test))


_OPENERS = (
    "Please ",
    "please ",
    "Can you ",
    "Could you ",
    "Hi, ",
    "Hey, ",
    "Hello! ",
    "Quick question: ",
    "Now ",
)
_CLOSERS = (" Thanks.", " Thank you!", " please", " Please.", " thanks")


def vary(rng: random.Random, prompt: str, *, openers: bool = True) -> str:
    """The small differences in how people type: case of the first letter, missing full stop, a courtesy."""
    if openers and rng.random() < 0.12 and not prompt.lower().startswith(("can ", "could ", "please ", "a ")):
        opener = rng.choice(_OPENERS)
        first = prompt.split(" ", 1)[0]
        if opener.lower().startswith(("please", "can", "could")) and first in (
            "What",
            "How",
            "Which",
            "Who",
            "I",
            "Is",
            "If",
            "There",
        ):
            opener = "Hi, "
        if first.istitle() and first not in ("I", "Python") and first.lower() in _COMMON:
            prompt = prompt[0].lower() + prompt[1:]
        prompt = opener + prompt
    elif rng.random() < 0.15 and prompt.split(" ", 1)[0].lower() in _COMMON:
        prompt = prompt[0].lower() + prompt[1:]
    if prompt[-1] in ".?" and rng.random() < 0.15:
        prompt = prompt[:-1]
    if rng.random() < 0.04:
        prompt += rng.choice(_CLOSERS)
    return prompt


_COMMON = frozenset(
    [
        "what",
        "how",
        "which",
        "calculate",
        "compute",
        "find",
        "tell",
        "give",
        "work",
        "solve",
        "add",
        "subtract",
        "multiply",
        "divide",
        "write",
        "create",
        "make",
        "implement",
        "define",
        "code",
        "build",
        "develop",
        "program",
        "extract",
        "get",
        "return",
        "pull",
        "read",
        "parse",
        "list",
        "from",
        "compose",
        "draft",
        "produce",
        "take",
        "start",
        "begin",
        "put",
        "if",
        "there",
        "is",
        "the",
        "turn",
        "convert",
        "identify",
        "show",
        "share",
        "between",
        "add",
        "pick",
        "name",
        "describe",
    ]
)
