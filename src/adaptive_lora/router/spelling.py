"""What is undone before a prompt is read: slips of the finger, and letters that only look like Latin ones.

Swapped neighbours, common in what people type fast, break a word into pieces that no encoder knows. Only
words that are in no vocabulary are touched, and only if one or two swaps of neighbours give a word that is.
Code, names and other languages have such words by accident only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container

from adaptive_lora.router.features import INVISIBLE, excerpt

MIN_LETTERS, MAX_LETTERS = 3, 20
MIN_FOR_TWO = 4

_LOOK_ALIKES = str.maketrans(
    # Cyrillic, small and capital; Greek, small and capital
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb"
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0406\u0408\u0405"
    "\u03bf\u03b9\u03bd\u03c1"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7",
    "aeopcyxijshABEKMHOPCTXIJSoivpABEZHIKMNOPTYX",
)
_LATIN = re.compile(r"[A-Za-z]")
_OTHER = re.compile(r"[\u0370-\u052f]")

_WORD = re.compile(r"[^\W\d_]+")


def tidy(prompt: str, *vocabularies: Container[str]) -> str:
    """What the router reads of `prompt`: its ends, in NFKC, without invisible characters, look-alikes and
    swaps."""
    text = INVISIBLE.sub("", unicodedata.normalize("NFKC", excerpt(prompt)))
    return undo_swaps(undo_look_alikes(text), *vocabularies)


def undo_look_alikes(text: str) -> str:
    """Cyrillic and Greek letters that look like Latin ones made Latin, in a text that is mostly Latin."""
    n_other = len(_OTHER.findall(text))
    if not n_other or n_other >= len(_LATIN.findall(text)):
        return text
    return text.translate(_LOOK_ALIKES)


def undo_swaps(text: str, *vocabularies: Container[str]) -> str:
    """`text` with words outside all `vocabularies` (lower case) replaced by what they were before a swap.

    Lower-cases what it replaces. Words of an earlier vocabulary are preferred, then one swap to two, then the
    one further left.
    """

    def repaired(found: re.Match[str]) -> str:
        word = found[0]
        lower = word.casefold()
        if not MIN_LETTERS <= len(lower) <= MAX_LETTERS or any(lower in known for known in vocabularies):
            return word
        once = [_swap(lower, i) for i in range(len(lower) - 1) if lower[i] != lower[i + 1]]
        twice = []
        if len(lower) >= MIN_FOR_TWO:
            twice = [_swap(w, i) for first, w in enumerate(once) for i in range(first + 2, len(w) - 1)]
        return next((w for known in vocabularies for w in (*once, *twice) if w in known), word)

    return _WORD.sub(repaired, text)


def _swap(word: str, i: int) -> str:
    return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
