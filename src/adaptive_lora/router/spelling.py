"""Slips of the finger undone before a prompt is read: swapped neighbours, common in what people type fast,
break a word into pieces that no encoder knows.

Only words that are not in the vocabulary are touched, and only if one swap of neighbours (two in a long word)
gives a word that is. Code, names and other languages have such words by accident only.
"""

from __future__ import annotations

import re
from collections.abc import Container

MIN_LETTERS = 4
MIN_FOR_TWO = 7
MAX_LETTERS = 20

_WORD = re.compile(r"[^\W\d_]+")


def undo_swaps(text: str, vocabulary: Container[str]) -> str:
    """`text` with words outside `vocabulary` (lower case) replaced by what they were before a swap.

    Lower-cases what it replaces. The first swap from the left that gives a known word is taken.
    """

    def repaired(found: re.Match[str]) -> str:
        word = found[0]
        lower = word.casefold()
        if not MIN_LETTERS <= len(lower) <= MAX_LETTERS or lower in vocabulary:
            return word
        swapped = [_swap(lower, i) for i in range(len(lower) - 1) if lower[i] != lower[i + 1]]
        for candidate in swapped:
            if candidate in vocabulary:
                return candidate
        if len(lower) >= MIN_FOR_TWO:
            for first, once in enumerate(swapped):
                for i in range(first + 2, len(once) - 1):
                    candidate = _swap(once, i)
                    if candidate in vocabulary:
                        return candidate
        return word

    return _WORD.sub(repaired, text)


def _swap(word: str, i: int) -> str:
    return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
