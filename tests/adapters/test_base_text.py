"""The fingerprint of what turns text into tokens changes with any of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptive_lora.adapters.base_text import FILES, text_fingerprint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_without_a_tokenizer_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert text_fingerprint(tmp_path) is None


@pytest.mark.parametrize("name", [*FILES, "chat_templates/tools.jinja"])
def test_every_file_counts(folder: Path, name: str) -> None:
    before = text_fingerprint(folder)
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("another")
    assert text_fingerprint(folder) != before
    changed = text_fingerprint(folder)
    path.write_text("one more")
    assert text_fingerprint(folder) not in (before, changed)


def test_files_do_not_run_into_each_other(tmp_path: Path) -> None:
    fingerprints = set()
    for i, (vocabulary, merges) in enumerate([("ab", "c"), ("a", "bc"), ("abc", "")]):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "vocab.json").write_text(vocabulary)
        (folder / "merges.txt").write_text(merges)
        fingerprints.add(text_fingerprint(folder))
    assert len(fingerprints) == 3


def test_a_template_in_place_of_the_models_own_counts(folder: Path) -> None:
    assert text_fingerprint(folder, "{{ messages }}") != text_fingerprint(folder)


def test_other_files_do_not_count(folder: Path) -> None:
    before = text_fingerprint(folder)
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "README.md").write_text("words")
    assert text_fingerprint(folder) == before
