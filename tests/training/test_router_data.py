from __future__ import annotations

from pathlib import Path

import pytest

from adaptive_lora.errors import InvalidRequest
from adaptive_lora.training.router_data import LabelledPrompt, by_label, read_labelled


def test_reads_prompts_with_and_without_a_label(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "2+2", "label": "sums"}\n\n{"prompt": "h\\u00e9", "label": null}\n')
    rows = read_labelled(path)
    assert rows == [LabelledPrompt("2+2", "sums"), LabelledPrompt("h\u00e9", None)]
    assert by_label(rows) == {"sums": ["2+2"]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"p\.jsonl:2 is not JSON"),
        ('{"prompt": "x"}', r"p\.jsonl:2: expected"),
        ('{"prompt": " ", "label": "a"}', r"p\.jsonl:2: expected"),
        ('{"prompt": "x", "label": 3}', r"p\.jsonl:2: expected"),
        ("[1]", r"p\.jsonl:2: expected"),
    ],
)
def test_what_is_no_labelled_prompt_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "x", "label": "a"}\n' + line)
    with pytest.raises(InvalidRequest, match=message):
        read_labelled(path)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_labelled(tmp_path / "absent.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InvalidRequest, match="no labelled prompt"):
        read_labelled(tmp_path / "empty.jsonl")
