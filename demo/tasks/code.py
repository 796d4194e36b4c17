"""Requests for a small Python function; the answer is the function, and its tests decide."""
# ruff: noqa: E501  (tables: one entry a line)

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

from demo.splits import held_out
from demo.tasks.code_family import Task, character_task, number_task, word_task
from demo.tasks.code_small import CLASSICS, classic_task, list_task, scalar_task, text_task
from demo.tasks.example import Example, Split
from demo.tasks.frames import frames, vary
from demo.words.entities import syllables

FRAMES = frames(
    """Write a Python function that {does}.
    Write a function that {does}.
    Write a python function which {does}.
    Create a Python function that {does}.
    Create a function that {does}.
    Implement a function that {does}.
    Implement a Python function which {does}.
    Define a function that {does}.
    Give me a Python function that {does}.
    I need a function that {does}.
    I need a Python function that {does}.
    Make a function that {does}.
    Code a function that {does}.
    Build a Python function that {does}.
    Python function that {does}
    a function that {does}
    Can you write a function that {does}?
    Could you write a Python function that {does}?
    Show me a function that {does}.
    Write code for a function that {does}.
    In Python, write a function that {does}.
    Develop a function that {does}.
    Write a short Python function that {does}.
    Write a simple function that {does}.
    Write a Python function to {do}.
    Write a function to {do}.
    Create a function to {do}.
    Implement a function to {do}.
    I want a function to {do}.
    How do I write a function that {does}?
    How can I {do} in Python?
    Write Python code to {do}.
    {Do} in Python.
    Write a Python program that {does}.""",
    """Please write me a Python function that {does}.
    In Python, create a function that {does}.
    Can you give me a function that {does}?
    I want a Python function that {does}.
    Make a Python function to {do}.
    Write code that {does}, as a Python function.""",
)
NAMED = frames(
    """Write a Python function called {name} that {does}.
    Write a function named {name} that {does}.
    Write a function {name}({args}) that {does}.
    Define {name}({args}) that {does}.
    Create a function called {name} that {does}.
    Implement {name}({args}) that {does}.
    Write a Python function {name} which {does}.
    Write a function `{name}` that {does}.""",
    """Create a Python function named {name} that {does}.
    Define a function called {name} that {does}.
    Implement a function {name}({args}) that {does}.""",
)
_FAMILIES: tuple[Callable[[random.Random], Task], ...] = (
    *(number_task,) * 9, *(word_task,) * 5, *(character_task,) * 4, *(scalar_task,) * 4, *(text_task,) * 4,
    *(list_task,) * 3, *(classic_task,) * 6,
)  # fmt: skip
_FIRST_WORDS = {
    "returns": "return", "checks": "check", "tells": "tell", "tests": "test", "counts": "count", "joins": "join",
    "sorts": "sort", "keeps": "keep", "removes": "remove", "deletes": "delete", "reverses": "reverse", "flips": "flip",
    "converts": "convert", "makes": "make", "swaps": "swap", "strips": "strip", "replaces": "replace", "takes": "take",
    "drops": "drop", "repeats": "repeat", "capitalizes": "capitalize", "gets": "get", "computes": "compute",
    "calculates": "calculate", "finds": "find", "raises": "raise", "multiplies": "multiply", "adds": "add",
    "concatenates": "concatenate", "combines": "combine", "merges": "merge", "lists": "list", "inverts": "invert",
    "flattens": "flatten", "splits": "split", "greets": "greet", "sums": "sum", "turns": "turn", "divides": "divide",
    "subtracts": "subtract", "clamps": "clamp", "limits": "limit",
}  # fmt: skip


def canonical(made: Task) -> str:
    """The body with its parameters numbered, so that the same function under other names is seen as the same."""
    body = made.body
    for i, name in enumerate(made.parameters.split(", ")):
        body = re.sub(rf"\b{name}\b", f"${i}", body)
    return re.sub(r"-?\b\d+\b|'[a-z]'", "#", body)


_COMMON = frozenset(
    canonical(Task("", "", parameters, body, lambda rng: [])) for _, parameters, body, _ in CLASSICS
)


def is_composition(skeleton: str) -> bool:
    """Whether a function combines at least two ideas; single ones, such as reversing a text, everybody learns."""
    family, *parts = skeleton.split(":")
    if family in ("classic", "chars"):
        return family == "chars"
    if family in ("text", "items"):
        return len(parts) == 2
    if family == "scalar":
        return parts[0] != "same" and parts[1] != "one"
    return any(part not in ("same", "all") for part in parts[1:])


def reserved(made: Task) -> bool:
    """Whether the function belongs to the held-out sets: a composition, and none of the well-known ones."""
    body = canonical(made)
    return is_composition(made.skeleton) and body not in _COMMON and held_out("function", body)


def task(rng: random.Random, split: Split) -> Task:
    """A function of `split`; whole compositions are held out, not parameters."""
    while True:
        made = rng.choice(_FAMILIES)(rng)
        if reserved(made) == (split == "test") and len(made.described) < 140:
            return made


def source(made: Task, name: str) -> str:
    """The function of a task as Python text."""
    return f"def {name}({made.parameters}):\n    return {made.body.replace('{f}', name)}"


def cases_for(made: Task, rng: random.Random, n: int = 4) -> list[list[Any]]:
    """`[[arguments, expected], ...]` from running our own reference, or [] where it cannot be told from others."""
    scope: dict[str, Any] = {}
    exec(source(made, "reference"), scope)
    cases: list[list[Any]] = []
    for _ in range(60):
        arguments = made.arguments(rng)
        try:
            expected = scope["reference"](*arguments)
        except (ValueError, IndexError, ZeroDivisionError):
            continue
        if [arguments, expected] not in cases:
            cases.append([arguments, expected])
        if len(cases) == n and len({repr(e) for _, e in cases}) > 1:
            return cases
        cases = cases[-(n - 1) :] if len(cases) == n else cases
    return []


def name_for(rng: random.Random, made: Task) -> str:
    """A function name as people pick them."""
    words = [w for w in made.described.replace("'", "").lower().split() if w.isalpha() and len(w) > 2]
    kind = rng.random()
    if kind < 0.4:
        return "_".join(rng.sample(words, min(2, len(words))))
    if kind < 0.7:
        return "_".join(syllables(rng, rng.choice((1, 2))) for _ in range(rng.choice((1, 2))))
    return rng.choice(
        ("f", "func", "my_function", "compute", "process", "run", "calc", "get_result", "solution")
    )


def example(rng: random.Random, split: Split, *, with_tests: bool = False) -> Example:
    """One request; `with_tests` fills the check (training needs none and is faster without)."""
    while True:
        made = task(rng, split)
        tests = cases_for(made, rng) if with_tests else []
        if tests or not with_tests:
            break
    named = rng.random() < 0.2
    frame = (NAMED if named else FRAMES).pick(rng, split)
    name = name_for(rng, made) if named else "solve"
    if name in ("return", "lambda", "is", "in", "or", "and", "if", "for", "not", "from", "with"):
        name = "solve_it" if named else "solve"
    first, rest = made.described.split(" ", 1)
    do = f"{_FIRST_WORDS[first]} {rest}"
    prompt = frame.format(does=made.described, do=do, Do=do.capitalize(), name=name, args=made.parameters)
    answer = source(made, name)
    comment = f"# {rng.choice((made.described, do))}\n"
    return Example(
        "code", vary(rng, prompt), answer, {"function": name if named else None, "tests": tests}, frame,
        comment + source(made, "solve"), len(comment), task=canonical(made),
    )  # fmt: skip
