"""What the base model is pre-trained on: skills in symbols, without the format of requests and answers.

Requests occur too, but only as lists of requests: the base knows the words and never answers.

What follows from the text before it (a result, a copy, the code behind its comment) stands between OPEN and
CLOSE. The rest is drawn at random, and a small model that tries to predict it learns the skills more slowly.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence

from demo.splits import held_out, held_out_numbers
from demo.tasks import analysis, analysis_frames, code, creative, reasoning
from demo.tasks.example import Example
from demo.words import lists
from demo.words.entities import code_id, draw, number_id, pool, syllables

OPEN, CLOSE = "\x02", "\x03"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def known(text: str) -> str:
    """`text`, marked as what follows from the text before it."""
    return f"{OPEN}{text}{CLOSE}"


def without_marks(marked: str) -> tuple[str, list[bool]]:
    """The plain text, and for each of its characters whether it stood inside a mark."""
    characters, inside, flags = [], False, []
    for c in marked:
        if c in (OPEN, CLOSE):
            inside = c == OPEN
        else:
            characters.append(c)
            flags.append(inside)
    return "".join(characters), flags


def marked_note(example: Example) -> str:
    """An example's note, its answer marked."""
    head, answer = example.note[: example.note_answer], example.note[example.note_answer :]
    return head + known(answer)


class Corpus:
    """An endless, deterministic stream of documents; nothing of the held-out sets is in it."""

    def __init__(self, seed: int, pieces: Sequence[str]) -> None:
        """`pieces` are the tokenizer's letter tokens, so that every one of them learns to be copied."""
        self.rng = random.Random(seed)
        self.pieces = pieces
        self._kinds: list[Callable[[], str]] = [
            self.arithmetic,
            self.copying,
            self.lookup,
            self.arithmetic_note,
            self.analysis_note,
            self.code_note,
            self.creative_note,
            self.requests,
            self.joined,
        ]
        self._weights = [0.13, 0.22, 0.14, 0.20, 0.22, 0.24, 0.06, 0.04, 0.02]

    def __iter__(self) -> Iterator[str]:
        while True:
            yield self.rng.choices(self._kinds, self._weights)[0]()

    def item(self) -> str:
        """Something to copy: a name, an invented word, random pieces, an id, a number, an address."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.15:
            text = rng.choice(pool(rng.choice(("first_names", "last_names", "cities", "companies")), "train"))
        elif kind < 0.40:
            text = syllables(rng, rng.choice((1, 2, 3)))
            text = text.capitalize() if rng.random() < 0.6 else text
        elif kind < 0.65:
            text = "".join(rng.choice(self.pieces) for _ in range(rng.choice((1, 2, 2, 3))))
        elif kind < 0.75:
            text = "".join(rng.choice(_LETTERS) for _ in range(rng.randint(2, 8)))
            text = text.capitalize() if rng.random() < 0.5 else text
        elif kind < 0.84:
            text = rng.choice(pool(rng.choice(("products", "poem_words", "objects")), "train")).lower()
        elif kind < 0.90:
            return str(number_id(rng, "train", 10))
        elif kind < 0.95:
            return code_id(rng, "train")
        else:
            return f"{syllables(rng, 2)}@{syllables(rng, 2)}.com"
        reserved = any(held_out(k, text) for k in ("first_names", "last_names", "cities", "companies"))
        return self.item() if reserved and kind >= 0.15 and rng.random() < 0.9 and text[0].isupper() else text

    def copying(self) -> str:
        """The same items twice, in a format or two."""
        rng = self.rng
        items = [self.item() for _ in range(rng.choice((1, 2, 3, 5, 8)))]
        left, right = rng.choice(
            (("{}", "{}"), ("'{}'", "{}"), ('"{}"', "{}"), ("{}", '"{}"'), ("the {}", "{}"), ("{}", "'{}'"))
        )
        between, arrow = rng.choice((" ", ", ", "; ")), rng.choice((" = ", " -> ", "\n", " : "))
        return (
            between.join(left.format(i) for i in items)
            + arrow
            + known(between.join(right.format(i) for i in items))
        )

    def lookup(self) -> str:
        """Keys with values, then some of the keys again."""
        rng = self.rng
        names = [n for said in analysis_frames.NAMES.values() for n in said]
        n = rng.choice((2, 3, 4))
        keys = rng.sample(sorted(set(names)), n) if rng.random() < 0.5 else [self.item() for _ in range(n)]
        table = {k: self.item() for k in keys}
        sign = rng.choice((": ", " is ", "=", " = "))
        asked = rng.sample(list(table), rng.randint(1, len(table)))
        return (
            rng.choice((", ", "; ", ". ", "\n")).join(f"{k}{sign}{v}" for k, v in table.items())
            + " | {"
            + ", ".join(f'"{k.replace(" ", "_")}": "{known(table[k] + chr(34))}' for k in asked)
            + "}"
        )

    def arithmetic(self) -> str:
        """Equations, some of them chained, comparisons and sequences."""
        rng = self.rng
        lines: list[str] = []
        while len(lines) < 6:
            sign = rng.choice("+++---**/")
            a, b = reasoning.operands_for(rng, sign)
            if sign != "/" and held_out_numbers(
                a, b
            ):  # a division's line is its factors: a fact of the times table
                continue
            line = reasoning.step(a, sign, b)
            if sign != "/" and rng.random() < 0.2:
                mid, c = int(line.split("=")[-1]), reasoning.number(rng, (1, 2))
                second = "-" if c <= mid and rng.random() < 0.5 else "+"
                line += f", {reasoning.step(mid, second, c)}"
            elif rng.random() < 0.12:
                if a == b:
                    continue
                larger = rng.random() < 0.5
                first, last = (max(a, b), min(a, b)) if larger else (min(a, b), max(a, b))
                lines.append(f"{first}{'>' if larger else '<'}{last}, so {known(str(first))}")
                continue
            if not reasoning.reserved_step(line):
                lines.append(re.sub("=([0-9+*-]+)", lambda m: "=" + known(m[1]), line))
        return rng.choice(("\n", " ; ")).join(lines)

    def arithmetic_note(self) -> str:
        """A statement in words and its equation."""
        return marked_note(reasoning.example(self.rng, "train"))

    def analysis_note(self) -> str:
        """A text, keys and the JSON object."""
        return marked_note(analysis.example(self.rng, "train"))

    def code_note(self) -> str:
        """A comment and its function."""
        return marked_note(code.example(self.rng, "train"))

    def creative_note(self) -> str:
        """A topic, a number of lines, words, and the poem."""
        return marked_note(creative.example(self.rng, "train"))

    def requests(self) -> str:
        """Requests only, one after the other."""
        modules = (reasoning, code, creative, analysis)
        n = self.rng.choice((1, 2, 3))
        return "\n".join(self.rng.choice(modules).example(self.rng, "train").prompt for _ in range(n))

    def joined(self) -> str:
        """Field names and their keys; people and places in a row."""
        rng = self.rng
        if rng.random() < 0.5:
            names = rng.sample([n for said in analysis_frames.NAMES.values() for n in said], 3)
            return ", ".join(names) + " -> " + known(", ".join(analysis.key_of(n) for n in names))
        who = [f"{draw(rng, 'train', 'first_names')} {rng.choice(lists.DAYS)}" for _ in range(3)]
        return ", ".join(who) + " -> " + known(", ".join(who))
