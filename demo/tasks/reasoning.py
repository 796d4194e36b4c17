"""Small arithmetic as people ask for it. The answer states its equations; the last number is the answer."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from demo.splits import held_out_numbers
from demo.tasks import reasoning_frames as f
from demo.tasks.example import Example, Split
from demo.tasks.frames import Frames, vary
from demo.words import lists
from demo.words.entities import draw

_SIGNS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}
_SHARES: dict[Split, str] = {"train": "++--**///", "test": "++--**/"}
"""How often each operation is asked for; divisions need more practice than their share in life."""
_OPERATION = re.compile(r"(?=(?<!\d)(\d+)[-+*](\d+))")


@dataclass(frozen=True)
class Problem:
    """Operands by slot name, the worked answer, and a frame that asks for it."""

    frame: str
    slots: dict[str, str | int]
    worked: str
    operands: tuple[int, ...]


def number(rng: random.Random, digits: tuple[int, ...] = (1, 2, 2, 2, 2, 3)) -> int:
    """A positive number with a random count of digits."""
    n = rng.choice(digits)
    return rng.randint(2 if n == 1 else 10 ** (n - 1), 10**n - 1)


def step(a: int, sign: str, b: int) -> str:
    """One equation with its way to the result: "17+25=37+5=42", "34*7=210+28=230+8=238", "56=7*8".

    A sum or difference takes one digit of `b` at a time, so that every step can be done in the head.
    """
    if sign == "/":
        small, large = sorted((b, a // b))  # 36/4 and 36/9 rest on the same fact
        return f"{a}={small}*{large}"
    parts = [f"{a}{sign}{b}"]
    if sign == "*":
        small, large = sorted((a, b))
        tens, ones = large // 10 * 10 * small, large % 10 * small
        if not tens or not ones:
            return f"{parts[0]}={a * b}"
        sign, a, b = "+", tens, ones
        parts.append(f"{a}+{b}")
    while b >= 10 and b % (place := 10 ** (len(str(b)) - 1)):
        a, b = _SIGNS[sign](a, b // place * place), b % place
        parts.append(f"{a}{sign}{b}")
    return "=".join([*parts, str(_SIGNS[sign](a, b))])


def worked(a: int, sign: str, b: int) -> str:
    """The answer to one operation; a division names its result behind the product."""
    return step(a, sign, b) + (f", so {a // b}" if sign == "/" else "")


def operands_for(rng: random.Random, sign: str) -> tuple[int, int]:
    """Two operands whose result is a small whole number that is not negative."""
    if sign == "*":
        a, b = number(rng, (1, 2, 2)), number(rng, (1,))
        return (a, b) if rng.random() < 0.6 else (b, a)
    if sign == "/":
        b = rng.randint(2, 10)
        return b * rng.randint(2, 9), b
    a, b = number(rng), number(rng)
    return (max(a, b), min(a, b)) if sign == "-" else (a, b)


def _plain(rng: random.Random, split: Split) -> Problem:
    sign = rng.choice(_SHARES[split])
    a, b = operands_for(rng, sign)
    return Problem(f.PLAIN[sign].pick(rng, split), {"a": a, "b": b}, worked(a, sign, b), (a, b))


def _story(rng: random.Random, split: Split) -> Problem:
    sign = rng.choice(_SHARES[split])
    a, b = operands_for(rng, sign)
    if sign in "+-" and rng.random() < 0.6:
        opening, event = f.OPENINGS.pick(rng, split), (f.GAINS if sign == "+" else f.LOSSES).pick(rng, split)
        frame = f"{opening} {event} {f.QUESTIONS.pick(rng, split)}"
    else:
        frame = f.STORIES[sign].pick(rng, split)
    return Problem(frame, {"a": a, "b": b}, worked(a, sign, b), (a, b))


def _two_steps(rng: random.Random, split: Split) -> Problem:
    kind = rng.choice(("events", "events", "chain", "chain"))
    if kind == "events":
        a, b = number(rng, (1, 2, 2)), number(rng, (1, 2))
        first = rng.choice("+-")
        if first == "-":
            a, b = max(a, b) + 2, min(a, b)
        mid = _SIGNS[first](a, b)
        c = number(rng, (1, 1, 2))
        second = "+" if c >= mid else rng.choice("+-")
        events = [(f.GAINS if s == "+" else f.LOSSES).pick(rng, split) for s in (first, second)]
        events[1] = rng.choice(("Then ", "Later ", "After that, ", "")) + events[1].replace("{b}", "{c}")
        frame = f"{f.OPENINGS.pick(rng, split)} {events[0]} {events[1]} {f.QUESTIONS.pick(rng, split)}"
        answer = f"{step(a, first, b)}, {step(mid, second, c)}"
        return Problem(frame, {"a": a, "b": b, "c": c}, answer, (a, b, c))
    signs = rng.choice(("++", "+-", "-+", "*+", "*-", "*-", "--", "+*"))
    while True:
        a, b = number(rng, (1, 2)), number(rng, (1, 2))
        if signs[0] == "*":
            a, b = operands_for(rng, "*")
        if signs == "+*":
            a, b = rng.randint(2, 30), rng.randint(2, 30)
        c = rng.randint(2, 9) if signs == "+*" else number(rng, (1, 2))
        mid = _SIGNS[signs[0]](a, b)
        if mid >= 0 and _SIGNS[signs[1]](mid, c) >= 0:
            break
    answer = f"{step(a, signs[0], b)}, {step(mid, signs[1], c)}"
    return Problem(f.CHAINS[signs].pick(rng, split), {"a": a, "b": b, "c": c}, answer, (a, b, c))


def _compare(rng: random.Random, split: Split) -> Problem:
    larger = rng.random() < 0.5
    digits = rng.choice(((1, 2), (2,), (2,), (2, 3), (3,)))
    n = rng.choice((2, 2, 2, 3))
    values = [number(rng, digits) for _ in range(n)]
    if rng.random() < 0.3:
        values[1] = int("".join(rng.sample(str(values[0]), len(str(values[0])))))
    while len(set(values)) < n:
        values = [number(rng, digits) for _ in range(n)]
    ordered = sorted(values, reverse=larger)
    answer = (">" if larger else "<").join(map(str, ordered)) + f", so {ordered[0]}"
    table = (f.LARGER if larger else f.SMALLER) if n == 2 else (f.LARGEST if larger else f.SMALLEST)
    return Problem(table.pick(rng, split), dict(zip("abc", values, strict=False)), answer, tuple(values))


def _one_number(rng: random.Random, split: Split) -> Problem:
    kind = rng.choice(sorted(f.ONE_NUMBER))
    b, a = {
        "double": (2, number(rng, (1, 2, 2))),
        "triple": (3, number(rng, (1, 2, 2))),
        "days": (7, rng.randint(2, 40)),
    }[kind]
    return Problem(f.ONE_NUMBER[kind].pick(rng, split), {"a": a}, step(a, "*", b), (a,))


def _factors(rng: random.Random, split: Split) -> Problem:
    """The times table read backwards, which divisions rest on. Training alone: several answers are right."""
    b, q = rng.randint(2, 9), rng.randint(2, 10)
    return Problem(f.FACTORS.pick(rng, split), {"a": b * q}, step(b * q, "/", b), (b, q))


def _three(rng: random.Random, split: Split) -> Problem:
    a, b, c = (number(rng, (1, 2, 2)) for _ in range(3))
    answer = f"{step(a, '+', b)}, {step(a + b, '+', c)}"
    return Problem(f.SUM_OF_THREE.pick(rng, split), {"a": a, "b": b, "c": c}, answer, (a, b, c))


_KINDS = [_plain] * 7 + [_story] * 6 + [_two_steps] * 5 + [_compare] * 3 + [_one_number] * 2
_KINDS += [_three]
_TRAINING_KINDS = [*_KINDS, _factors, _factors, _factors]


def reserved_step(worked: str) -> bool:
    """Whether any operation in a worked answer, those on the way included, is held out."""
    return any(held_out_numbers(int(a), int(b)) for a, b in _OPERATION.findall(worked))


def reserved(problem: Problem) -> bool:
    """Whether any operation, or the whole set of operands, belongs to the held-out sets."""
    return held_out_numbers(*problem.operands) or reserved_step(problem.worked)


def problem(rng: random.Random, split: Split) -> Problem:
    """A problem of `split`: training ones hold no reserved equation, held-out ones have reserved operands."""
    kind = rng.choice(_TRAINING_KINDS if split == "train" else _KINDS)
    while True:
        made = kind(rng, split)
        if held_out_numbers(*made.operands) if split == "test" else not reserved(made):
            return made


def render(rng: random.Random, split: Split, made: Problem) -> tuple[str, tuple[str, ...]]:
    """The text of a problem, and the names in it."""
    name, other = draw(rng, split, "first_names", 0.25), draw(rng, split, "first_names", 0.25)
    things = [o for o in lists.OBJECTS if o[-1] == "s"]
    pronoun = rng.choice(("He", "She"))
    text = made.frame.format(name=name, other=other, obj=rng.choice(things), he=pronoun, **made.slots)
    for before in ("Then ", "Later ", "After that, "):
        text = text.replace(before + pronoun, before + pronoun.lower())
    return text, tuple(n for n in (name, other) if n in text)


def example(rng: random.Random, split: Split) -> Example:
    """One request, for instance "What is 17 plus 25?" with the answer "17+25=42"."""
    made = problem(rng, split)
    text, names = render(rng, split, made)
    answer = made.worked.replace("=", " ").replace(",", " ").split()[-1]
    return Example(
        "reasoning",
        vary(rng, text),
        made.worked,
        {"answer": answer},
        made.frame,
        (said := note(made, text)),
        len(said) - len(made.worked),
        made.operands,
        names,
    )


def note(made: Problem, text: str) -> str:
    """The question as a heading, and the equation."""
    return f"({text.rstrip('?.').replace('What is ', '').replace('what is ', '')}) {made.worked}"


__all__ = ["Frames", "example"]
