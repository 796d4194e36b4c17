"""Hashed n-grams of a prompt: words (one and two) and characters (three to five), as one vector of fixed
length.

Robust where an encoder is not (typos, code, symbols, other languages), weak at paraphrase, which is the
encoder's part. Hashing (Weinberger et al. 2009) needs no vocabulary, so that a new agent changes no feature
of the others.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_BUCKETS = 1 << 10
HEAD_CHARS, TAIL_CHARS = 768, 256
"""What is read of a long prompt. What is asked for stands at its start or its end; quoted material between
them."""
CHAR_NGRAMS = (3, 4, 5)

FloatArray = NDArray[np.float32]

_TOKEN = re.compile(r"\w+|[^\w\s]")
INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_DIGITS = re.compile(r"\d")
_SPACES = re.compile(r"\s+")

_MAX_CHARS = 4 * (HEAD_CHARS + TAIL_CHARS)
_PRIME = 0x9E3779B97F4A7C15


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


_POWERS = _powers(_PRIME, _MAX_CHARS)
_INVERSES = _powers(pow(_PRIME, -1, 1 << 64), _MAX_CHARS)


@dataclass(frozen=True, slots=True)
class Ngrams:
    """The n-grams of one prompt. Arrays have one row per n-gram; `text[begin:end]` is the n-gram itself."""

    text: str
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    bucket: NDArray[np.int64]
    """0 .. N_BUCKETS - 1"""
    value: FloatArray
    """Signed weight with which the n-gram enters its bucket."""


def excerpt(prompt: str) -> str:
    """What is read of a prompt."""
    if len(prompt) <= HEAD_CHARS + TAIL_CHARS + 1:
        return prompt
    return prompt[:HEAD_CHARS] + " " + prompt[-TAIL_CHARS:]


def normalise(prompt: str) -> str:
    """What the n-grams see: head and tail, NFKC, lower case, digits as 0, single spaces, a space at either
    end.

    Every digit becomes 0, since which numbers a task holds does not decide who solves it.
    """
    text = INVISIBLE.sub("", unicodedata.normalize("NFKC", excerpt(prompt)).casefold())
    text = f" {_SPACES.sub(' ', _DIGITS.sub('0', text)).strip()} "
    # A few characters unfold to many under NFKC; what exceeds the tables then is the middle again.
    return text if len(text) < _MAX_CHARS else text[: _MAX_CHARS // 2] + text[-_MAX_CHARS // 2 + 1 :]


def extract_ngrams(prompt: str) -> Ngrams:
    """All n-grams of `prompt`; words and characters weigh alike, whatever their numbers; summed by bucket,
    length 1."""
    text = normalise(prompt)
    spans = np.array([match.span() for match in _TOKEN.finditer(text)], np.int64).reshape(-1, 2)
    pairs = np.stack([spans[:-1, 0], spans[1:, 1]], axis=1)
    starts = [np.arange(max(0, len(text) - n + 1)) for n in CHAR_NGRAMS]
    windows = [np.stack([start, start + n], axis=1) for start, n in zip(starts, CHAR_NGRAMS, strict=True)]
    n_words, n_chars = len(spans) + len(pairs), sum(map(len, windows))
    begin, end = np.concatenate([spans, pairs, *windows]).T
    is_char = np.arange(n_words + n_chars) >= n_words

    # Hash of any span from prefix sums of a polynomial modulo 2^64: sum(c_i P^i) over the span, times
    # P^-begin.
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    prefix = np.zeros(len(points) + 1, np.uint64)
    np.cumsum(points * _POWERS[: len(points)], out=prefix[1:])
    mixed = _mix((prefix[end] - prefix[begin]) * _INVERSES[begin] + is_char.astype(np.uint64))
    bucket = (mixed % np.uint64(N_BUCKETS)).astype(np.int64)
    sign = np.where(mixed >> np.uint64(63), np.float32(1), np.float32(-1))
    weight = np.where(is_char, 1 / np.sqrt(max(1, n_chars)), 1 / np.sqrt(max(1, n_words))).astype(np.float32)
    value = sign * weight
    length = float(np.linalg.norm(np.bincount(bucket, value, N_BUCKETS)))
    return Ngrams(text, begin, end, bucket, (value / max(length, 1e-9)).astype(np.float32))


def embed_ngrams(prompts: Sequence[str]) -> FloatArray:
    """float32[len(prompts), N_BUCKETS], rows of length 1 (0 for a prompt without any visible character)."""
    rows = np.zeros((len(prompts), N_BUCKETS), np.float32)
    for row, prompt in zip(rows, prompts, strict=True):
        ngrams = extract_ngrams(prompt)
        row[:] = np.bincount(ngrams.bucket, ngrams.value, N_BUCKETS)
    return rows


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al. 2014): spreads every input bit over all output bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
