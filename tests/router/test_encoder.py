from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from adaptive_lora.errors import SettingsError
from adaptive_lora.router import encoder as module
from adaptive_lora.router.encoder import OnnxEncoder, default_encoder_path, load_encoder


@pytest.fixture
def copy(encoder: OnnxEncoder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(default_encoder_path(), tmp_path / "encoder"))


def test_likeness_of_meaning(encoder: OnnxEncoder) -> None:
    rows = encoder.encode(
        ["how do I reset my password", "I forgot my login details", "the cat sat on the mat"]
    )
    assert rows.shape == (3, encoder.n_dims)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2


def test_a_row_does_not_depend_on_the_others(encoder: OnnxEncoder) -> None:
    prompts = ["hello", "a much longer prompt about nothing in particular, really nothing", "2+2"]
    together = encoder.encode(prompts)
    for prompt, row in zip(prompts, together, strict=True):
        np.testing.assert_array_equal(encoder.encode([prompt])[0], row)


def test_reads_the_start_and_the_last_tokens_of_a_long_prompt(encoder: OnnxEncoder) -> None:
    start, end = "one two three four five six seven eight nine", "ten eleven twelve"
    short, long, other = encoder.encode(
        [f"{start} {end}", f"{start} {'and ' * 9000}{end}", f"{start} {'and ' * 90}"]
    )
    np.testing.assert_allclose(short, long, atol=1e-6)
    assert np.abs(short - other).max() > 0.01


def test_a_wider_window_reads_more(copy: Path) -> None:
    prompt = (
        "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    )
    narrow, wide = load_encoder(copy), load_encoder(copy, max_tokens=64)
    assert narrow is not None
    assert wide is not None
    assert narrow.version != wide.version
    assert np.abs(narrow.encode([prompt]) - wide.encode([prompt])).max() > 0.01
    np.testing.assert_array_equal(narrow.encode(["short"]), wide.encode(["short"]))


@pytest.mark.parametrize("prompt", ["", " ", "\ud800", "\x00", "\U0001f600", "x" * 100_000])
def test_odd_text(encoder: OnnxEncoder, prompt: str) -> None:
    assert np.isfinite(encoder.encode([prompt])).all()


def test_no_prompts(encoder: OnnxEncoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.n_dims)


def test_absent_default_says_so_and_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "default_encoder_path", lambda: tmp_path)
    with caplog.at_level(logging.WARNING):
        assert load_encoder() is None
    assert "n-grams alone" in caplog.text


def test_absent_where_the_settings_say_it_is(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"router\.encoder_path"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_changed_file_is_not_loaded(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(SettingsError, match=f"{name} .* differs from its SHA-256"):
        load_encoder(copy)


def test_a_missing_file(copy: Path) -> None:
    (copy / "model.onnx").unlink()
    with pytest.raises(SettingsError, match="make encoder"):
        load_encoder(copy)


def test_an_unknown_key(copy: Path) -> None:
    meta = json.loads((copy / "encoder.json").read_text())
    (copy / "encoder.json").write_text(json.dumps(meta | {"surprise": 1}))
    with pytest.raises(SettingsError, match="surprise"):
        load_encoder(copy)


def test_the_shipped_files_are_what_their_card_says(encoder: OnnxEncoder) -> None:
    folder = default_encoder_path()
    meta = json.loads((folder / "encoder.json").read_text())
    for name, expected in meta["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected
    assert meta["licence"] == "Apache-2.0"
    assert "Apache License" in (folder / "LICENSE").read_text()
