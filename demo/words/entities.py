"""Draws entities of one split: real ones from the lists, synthesised ones from syllables."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache

from demo.splits import held_out
from demo.tasks.example import Split
from demo.words import lists

_ONSETS = [
    "b",
    "br",
    "c",
    "ch",
    "cl",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "qu",
    "r",
    "s",
    "sh",
    "sk",
    "st",
    "t",
    "th",
    "tr",
    "v",
    "w",
    "y",
    "z",
] + [""] * 4
_VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "ai", "ea", "ee", "ia", "io", "oo", "ou"]
_CODAS = ["n", "r", "l", "s", "t", "m", "d", "k", "ck", "nd", "rt", "x", "ng", "th"] + [""] * 10


_KIN = (("first_names", "last_names", "cities", "companies"), ("topics", "poem_words", "products", "objects"))
"""Lists that share words, such as Sofia the city and Sofia the person: held out means held out of all of
them.
"""


def _kin(kind: str) -> tuple[str, ...]:
    return next(group for group in _KIN if kind in group)


def _last_words(kind: str, split: Split) -> frozenset[str]:
    words: Sequence[str] = getattr(lists, kind.upper())
    return frozenset(w.split()[-1].lower() for w in words if held_out(kind, w) == (split == "test"))


@cache
def _trained(kind: str) -> frozenset[str]:
    """Listed words, of the kind or its kin, that training uses."""
    return frozenset().union(*(_last_words(k, "train") for k in _kin(kind)))


@cache
def _reserved(kind: str) -> frozenset[str]:
    """Listed words, of the kind or its kin, that some test set may use."""
    return frozenset().union(*(_last_words(k, "test") for k in _kin(kind))) - _trained(kind)


@cache
def pool(kind: str, split: Split) -> tuple[str, ...]:
    """The members of a word list that belong to `split`."""
    words: Sequence[str] = getattr(lists, kind.upper())
    if split == "train":
        return tuple(w for w in dict.fromkeys(words) if not held_out(kind, w))
    return tuple(
        w for w in dict.fromkeys(words) if w.split()[-1].lower() in _reserved(kind) and held_out(kind, w)
    )


def syllables(rng: random.Random, n: int) -> str:
    """A pronounceable lower-case word of `n` syllables."""
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(n))


def _of_split(kind: str, split: Split, make: Callable[[], str]) -> str:
    while True:
        word = make()
        if split == "train" and not held_out(kind, word) and word.lower() not in _reserved(kind):
            return word
        if split == "test" and held_out(kind, word) and word.lower() not in _trained(kind) and len(word) > 6:
            return word


def draw(rng: random.Random, split: Split, kind: str, invent: float = 0.4) -> str:
    """A member of the list `kind`, or with probability `invent` an invented capitalised word."""
    if rng.random() >= invent:
        return rng.choice(pool(kind, split))
    return _of_split(kind, split, lambda: syllables(rng, rng.choice((2, 2, 3))).capitalize())


def draw_lower(rng: random.Random, split: Split, kind: str, invent: float) -> str:
    """As `draw`, in lower case."""
    if rng.random() >= invent:
        return rng.choice(pool(kind, split))
    return _of_split(kind, split, lambda: syllables(rng, rng.choice((1, 2, 2, 3))))


def _id_of_split(split: Split, make: Callable[[], str]) -> str:
    while held_out("ids", made := make()) != (split == "test"):
        pass
    return made


def number_id(rng: random.Random, split: Split, low: int = 100, high: int = 99999) -> int:
    """An order or invoice number; three, four and five digits are equally likely."""

    def make() -> str:
        n_digits = rng.randint(len(str(low)), len(str(high)))
        return str(rng.randint(max(low, 10 ** (n_digits - 1)), min(high, 10**n_digits - 1)))

    return int(_id_of_split(split, make))


def code_id(rng: random.Random, split: Split) -> str:
    """An alphanumeric id such as "A-1043", "INV204" or "XK-77-B"."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

    def make() -> str:
        head = "".join(rng.choice(letters) for _ in range(rng.randint(1, 3)))
        tail = rng.choice(("", "", "", "-" + rng.choice(letters)))
        return f"{head}{rng.choice(('-', '', '-'))}{rng.randint(10, 9999)}{tail}"

    return _id_of_split(split, make)
