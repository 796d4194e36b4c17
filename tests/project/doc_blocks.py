"""Fenced blocks of README.md and docs/, and what stands above each: who runs it, or why nobody does.

<!-- run by: tests/project/test_docs.py::test_the_request_by_curl -->
<!-- not run: needs an AWS account -->
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import yaml

from adaptive_lora.settings_loading import known_keys

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
)
LANGUAGES = {"bash", "sh", "console", "python", "yaml", "json", "toml", "dockerfile", "nginx", "promql"}
"""Of what a reader types, or puts into a file. `text` and `mermaid` are shown."""

_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>run by|not run): (?P<what>[^\n]+?) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str
    run_by: str
    not_run: str

    @property
    def is_settings(self) -> bool:
        """Whether it is a part of a settings file: any of these is loaded by a test."""
        if self.language != "yaml" or self.run_by or self.not_run:
            return False
        tree = next(iter(yaml.safe_load_all(self.text)))
        return isinstance(tree, dict) and tree.keys() <= {key.partition(".")[0] for key in known_keys()}

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str, language: str | None = None) -> list[Block]:
    text = (ROOT / page).read_text()
    found = []
    for match in _BLOCK.finditer(text):
        what = {match["mark"]: match["what"]}
        indent = match["indent"]
        lines = [line.removeprefix(indent) for line in match["text"].splitlines(keepends=True)]
        line = text.count("\n", 0, match.start("language")) + 1
        block = Block(
            page, line, match["language"], "".join(lines), what.get("run by", ""), what.get("not run", "")
        )
        if language in (None, block.language):
            found.append(block)
    return found


def block_with(page: str, words: str) -> Block:
    """The one block of the page that has these words."""
    (found,) = (block for block in blocks(page) if words in block.text)
    return found
