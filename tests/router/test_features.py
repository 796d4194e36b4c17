from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.router.features import (
    CHAR_NGRAMS,
    HEAD_CHARS,
    N_BUCKETS,
    TAIL_CHARS,
    embed_ngrams,
    extract_ngrams,
    normalise,
)


def likeness(a: str, b: str) -> float:
    first, second = embed_ngrams([a, b])
    return float(first @ second)


@pytest.mark.parametrize(
    ("prompt", "seen"),
    [
        ("  Hello\n\tWorld ", " hello world "),
        ("What is 17+250?", " what is 00+000? "),
        ("\uff26\uff35\uff2c\uff2c \uff57\uff49\uff44\uff54\uff48 \u2460", " full width 0 "),
        ("zero\u200bwidth\u00ad", " zerowidth "),
        ("STRASSE Straße", " strasse strasse "),
        ("cafe\u0301", " caf\u00e9 "),
        ("", "  "),
    ],
)
def test_normalise(prompt: str, seen: str) -> None:
    assert normalise(prompt) == seen


def test_the_same_ngrams_in_plain_python() -> None:
    """Against the definition, written out: spans, and one bucket and sign per (kind, text)."""
    ngrams = extract_ngrams("Write a poem: rain, rain!")
    text = " write a poem: rain, rain! "
    words = ["write", "a", "poem", ":", "rain", ",", "rain", "!"]
    pairs = ["write a", "a poem", "poem:", ": rain", "rain,", ", rain", "rain!"]
    chars = [text[i : i + n] for n in CHAR_NGRAMS for i in range(len(text) - n + 1)]
    spans = [ngrams.text[b:e] for b, e in zip(ngrams.begin, ngrams.end, strict=True)]
    assert ngrams.text == text
    assert spans == words + pairs + chars
    n_words = len(words) + len(pairs)
    kinds = ["word"] * n_words + ["char"] * len(chars)
    places: dict[tuple[str, str], tuple[int, float]] = {}
    for kind, span, bucket, value in zip(kinds, spans, ngrams.bucket, ngrams.value, strict=True):
        assert places.setdefault((kind, span), (int(bucket), float(value))) == (int(bucket), float(value))
    assert len({bucket for bucket, _ in places.values()}) > 0.95 * len(places)


def test_signs_and_buckets_are_spread_evenly() -> None:
    ngrams = extract_ngrams(
        " ".join(f"{chr(97 + i % 26)}{chr(98 + i // 26)}x{chr(97 + i % 7)}" for i in range(500))
    )
    unique = np.unique(ngrams.bucket)
    assert abs(np.sign(ngrams.value).mean()) < 0.1
    assert np.bincount(unique * 8 // N_BUCKETS, minlength=8).min() > 0.7 * len(unique) / 8


@given(st.text(max_size=300))
def test_any_text_has_a_vector_of_length_one_or_zero(prompt: str) -> None:
    (row,) = embed_ngrams([prompt])
    assert np.isfinite(row).all()
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5) or not row.any()


@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=4))
def test_rows_do_not_depend_on_each_other(prompts: list[str]) -> None:
    together = embed_ngrams(prompts)
    for prompt, row in zip(prompts, together, strict=True):
        np.testing.assert_array_equal(embed_ngrams([prompt])[0], row)


@pytest.mark.parametrize(
    "prompt", ["\ud800 lone surrogate", "\ufdfa" * 32_000, "\x00", "a", "\U0001f600" * 50]
)
def test_odd_text(prompt: str) -> None:
    assert np.isfinite(embed_ngrams([prompt])).all()


def test_typos_and_case_cost_little_and_other_prompts_are_far() -> None:
    prompt = "Write a Python function that returns the largest number of a list"
    assert likeness(prompt, prompt.upper()) == pytest.approx(1, abs=1e-6)
    assert likeness(prompt, prompt.replace("function", "fucntion").replace("largest", "lragest")) > 0.7
    assert likeness(prompt, "Which city hosted the olympic games?") < 0.2


def test_numbers_do_not_matter() -> None:
    assert likeness("What is 17 plus 25?", "What is 93 plus 48?") == pytest.approx(1, abs=1e-6)


def test_of_a_long_prompt_head_and_tail_are_read() -> None:
    head, tail = "first " * 600, " last" * 300
    filler = "filler " * 9_000
    text = normalise(head + filler + tail)
    assert len(text) < HEAD_CHARS + TAIL_CHARS + 10
    assert "first" in text
    assert "last" in text
    assert "filler" not in text
