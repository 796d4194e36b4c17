"""What a task generator yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Split = Literal["train", "test"]
DOMAINS = ("reasoning", "code", "creative", "analysis")


@dataclass(frozen=True)
class Example:
    """One prompt with a reference answer and a check that a program can make.

    `template`, `operands`, `entities` and `task` name what the example was built from, so that a test
    can prove
    that no such part of the held-out sets occurs in training. `note` says the same thing without a
    request, its answer from index `note_answer` on: the base model is pre-trained on notes, and only the
    adapters learn to answer requests.
    """

    domain: str
    prompt: str
    completion: str
    check: dict[str, Any]
    template: str
    note: str
    note_answer: int
    operands: tuple[int, ...] = ()
    entities: tuple[str, ...] = ()
    task: str = ""
