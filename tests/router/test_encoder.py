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


def late(encoder: OnnxEncoder, *prompts: str) -> np.ndarray:
    return np.stack([encoder.read(prompt).late() for prompt in prompts])


@pytest.mark.parametrize("half", ["early", "late"])
def test_likeness_of_meaning(encoder: OnnxEncoder, half: str) -> None:
    prompts = ["how do I reset my password", "I forgot my login details", "the cat sat on the mat"]
    rows = np.stack([getattr(encoder.read(prompt), half)() for prompt in prompts])
    assert rows.shape == (3, encoder.n_dims)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.1


def test_reading_again_is_reading_the_same(encoder: OnnxEncoder) -> None:
    reading = encoder.read("a prompt about nothing in particular")
    np.testing.assert_array_equal(reading.late(), reading.late())
    np.testing.assert_array_equal(
        reading.early(), encoder.read("a prompt about nothing in particular").early()
    )


def test_reads_the_start_and_the_last_tokens_of_a_long_prompt(encoder: OnnxEncoder) -> None:
    start = "one two three four five six seven eight nine ten eleven twelve one two three four"
    short, long, other = late(
        encoder,
        f"{start} fifteen sixteen",
        f"{start} {'and ' * 9000}fifteen sixteen",
        f"{start} {'and ' * 90}",
    )
    np.testing.assert_allclose(short, long, atol=1e-6)
    assert np.abs(short - other).max() > 0.01


def test_a_wider_window_reads_more(copy: Path) -> None:
    prompt = " ".join(["one two three four five six seven eight nine ten eleven twelve"] * 3)
    narrow, wide = load_encoder(copy), load_encoder(copy, max_tokens=64)
    assert narrow is not None
    assert wide is not None
    assert narrow.version != wide.version
    assert np.abs(late(narrow, prompt) - late(wide, prompt)).max() > 0.01
    np.testing.assert_array_equal(late(narrow, "short"), late(wide, "short"))


@pytest.mark.parametrize("prompt", ["", " ", "\ud800", "\x00", "\U0001f600", "x" * 100_000])
def test_odd_text(encoder: OnnxEncoder, prompt: str) -> None:
    assert np.isfinite(late(encoder, prompt)).all()


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


@pytest.mark.parametrize("name", ["early.onnx", "late.onnx", "tokenizer.json"])
def test_a_changed_file_is_not_loaded(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(SettingsError, match=f"{name} .* differs from its SHA-256"):
        load_encoder(copy)


def test_a_missing_file(copy: Path) -> None:
    (copy / "late.onnx").unlink()
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
