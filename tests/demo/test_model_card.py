from __future__ import annotations

from pathlib import Path

import pytest

from demo.model_card import BEGIN, END, write_scores
from demo.tasks.example import DOMAINS

RESULT = {
    "matrix": {"base": dict.fromkeys(DOMAINS, 0.125), "auto": dict.fromkeys(DOMAINS, 0.5)},
    "oracle": 0.75, "auto": 0.5, "handwritten": 0.25, "handwritten_oracle": 0.375, "n": 40,
}  # fmt: skip


def test_scores_replace_the_old_ones_and_nothing_else(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(f"# Card\n{BEGIN}\nold 99 %\n{END}\nLimits.\n")
    write_scores(card, RESULT)
    write_scores(card, RESULT)
    text = card.read_text()
    assert text.startswith(f"# Card\n{BEGIN}\n")
    assert text.endswith(f"{END}\nLimits.\n")
    assert "| base | 12.5 % |" in text
    assert "old" not in text
    assert text.count("| auto |") == 1


def test_a_card_without_markers_is_left_alone(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("# Card\n")
    with pytest.raises(ValueError, match="has no"):
        write_scores(card, RESULT)
    assert card.read_text() == "# Card\n"
