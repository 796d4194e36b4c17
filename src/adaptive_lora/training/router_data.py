"""Labelled prompts: JSONL, one {"prompt": ..., "label": ...} a line; label null is out of scope."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptive_lora.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class LabelledPrompt:
    prompt: str
    label: str | None
    """The agent's name; None if no agent is for it."""


def read_labelled(path: Path) -> list[LabelledPrompt]:
    """Raises InvalidRequest that names file and line for what is no labelled prompt."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidRequest(f"{path}:{number} is not JSON: {error}") from error
        match row:
            case {"prompt": str(prompt), "label": str() | None as label} if prompt.strip():
                rows.append(LabelledPrompt(prompt, label))
            case _:
                raise InvalidRequest(
                    f'{path}:{number}: expected {{"prompt": "...", "label": "..." or null}}, '
                    f"found {line.strip()[:80]!r}"
                )
    if not rows:
        raise InvalidRequest(f"{path} holds no labelled prompt")
    return rows


def by_label(rows: Sequence[LabelledPrompt]) -> dict[str, list[str]]:
    """Prompts per label; those out of scope are left out."""
    examples: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.label is not None:
            examples[row.label].append(row.prompt)
    return dict(examples)
