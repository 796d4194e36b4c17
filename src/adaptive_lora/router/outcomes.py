"""The log that benefit is learnt from: what was chosen with which probabilities, and how it went.

    <folder>/choices.jsonl   one line per choice, written by the server
    <folder>/rewards.jsonl   {"request_id": ..., "reward": 0..1}, written by whoever knows

Both are append-only, a line at a time; several processes may write. Prompts are not in it.
"""

from __future__ import annotations

import json
import logging
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adaptive_lora.errors import RouterError
from adaptive_lora.router.benefit import N_DIMS, Choice, Outcome, Situation

_log = logging.getLogger(__name__)

Line = TypeVar("Line", bound=BaseModel)

MAX_OPEN = 100_000
"""Choices whose reward is waited for; older ones are forgotten."""


class ChoiceLine(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    request_id: str
    topic: str
    routed: str
    arms: tuple[str, ...]
    features: tuple[float, ...] = Field(min_length=N_DIMS, max_length=N_DIMS)
    arm: str
    propensities: dict[str, float]

    @model_validator(mode="after")
    def _was_possible(self) -> ChoiceLine:
        if not self.propensities.get(self.arm, 0) > 0:
            raise ValueError("the chosen arm had no probability")
        return self

    def choice(self) -> Choice:
        situation = Situation(self.topic, self.routed, self.arms, self.features)
        return Choice(situation, self.arm, self.propensities)


class RewardLine(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    request_id: str
    reward: float = Field(ge=0, le=1)


class OutcomeLog:
    """Reads what both files gained since it last looked. Not thread-safe; writing is."""

    def __init__(self, folder: Path) -> None:
        """Raises RouterError if the folder cannot be made."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RouterError(f"router.learning_path {str(folder)!r} cannot be written: {error}") from error
        self._choices, self._rewards = folder / "choices.jsonl", folder / "rewards.jsonl"
        self._read: dict[Path, int] = {}
        self._open: OrderedDict[str, Choice] = OrderedDict()

    def write_choice(self, request_id: str, choice: Choice) -> None:
        line = {
            "request_id": request_id,
            **asdict(choice.situation),
            "arm": choice.arm,
            "propensities": dict(choice.propensities),
        }
        _append(self._choices, json.dumps(line))

    def write_reward(self, request_id: str, reward: float) -> None:
        """Raises ValueError unless the reward is in 0..1."""
        _append(self._rewards, RewardLine(request_id=request_id, reward=reward).model_dump_json())

    def new_outcomes(self) -> Iterator[Outcome]:
        """Rewards that came since the last call, with their choices; a choice is rewarded once.

        Lines that are no choice or reward are logged and left out.
        """
        for line in self._new_lines(self._choices):
            if (chosen := _parse(ChoiceLine, line, self._choices)) is not None:
                self._open[chosen.request_id] = chosen.choice()
        while len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)
        for line in self._new_lines(self._rewards):
            rewarded = _parse(RewardLine, line, self._rewards)
            if rewarded is not None and (choice := self._open.pop(rewarded.request_id, None)) is not None:
                yield Outcome(choice, rewarded.reward)

    def _new_lines(self, path: Path) -> list[str]:
        """Complete lines only: the last one may be on its way."""
        start = self._read.get(path, 0)
        try:
            with path.open("rb") as file:
                file.seek(start)
                content = file.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._read[path] = start + len(whole)
        return whole.decode("utf-8", "replace").splitlines()


def _parse(kind: type[Line], line: str, path: Path) -> Line | None:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        _log.warning("%s: a line is left out: %s", path, error.errors()[0]["msg"])
        return None


def _append(path: Path, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)
