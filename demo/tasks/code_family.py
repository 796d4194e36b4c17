"""A compositional family of small Python functions: aggregate x transform x filter over a container, and kin.

A `Task` is a function body with several ways to say what it does. `skeleton` names the composition without its
parameters; whole skeletons are held out, so that no function of the test set was trained with other numbers.
"""
# ruff: noqa: E501  (tables: one entry a line)

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Arguments = Callable[[random.Random], list[Any]]


@dataclass(frozen=True)
class Task:
    """`described` completes "a function that ..."; `body` is the expression that it returns."""

    skeleton: str
    described: str
    parameters: str
    body: str
    arguments: Arguments


def _numbers(rng: random.Random) -> list[int]:
    return [rng.choice((rng.randint(-20, 30), rng.randint(1, 12))) for _ in range(rng.randint(6, 10))]


_WORDS = [
    "apple",
    "Bob",
    "sky",
    "echo",
    "river",
    "Anna",
    "to",
    "Zebra",
    "level",
    "hi",
    "stone",
    "orange",
    "Tree",
    "a",
    "kayak",
    "moon",
    "under",
    "it",
    "blue",
    "Code",
]


def _words(rng: random.Random) -> list[str]:
    return rng.sample(_WORDS, rng.randint(6, 9))


def _text(rng: random.Random) -> str:
    return rng.choice((" ", "-", " ")).join(rng.sample([*_WORDS, "42", "7", "ABC", "x1"], rng.randint(3, 6)))


# Elements are numbers: name -> (ways to say it, condition on x)
def number_filter(rng: random.Random) -> tuple[str, str, str, str]:
    """(name, adjective before the noun, clause behind it, condition)."""
    k = rng.randint(2, 20)
    d = rng.randint(3, 9)
    choices: list[tuple[str, list[tuple[str, str]], str]] = [
        ("even", [("even ", "")], "x % 2 == 0"),
        ("odd", [("odd ", "")], "x % 2 != 0"),
        ("positive", [("positive ", "")], "x > 0"),
        ("negative", [("negative ", "")], "x < 0"),
        ("above", [("", f" greater than {k}"), ("", f" above {k}"), ("", f" larger than {k}"), ("", f" over {k}")], f"x > {k}"),
        ("below", [("", f" less than {k}"), ("", f" below {k}"), ("", f" smaller than {k}"), ("", f" under {k}")], f"x < {k}"),
        ("divisible", [("", f" divisible by {d}"), ("", f" that are multiples of {d}")], f"x % {d} == 0"),
        ("at_least", [("", f" of at least {k}"), ("", f" that are at least {k}")], f"x >= {k}"),
    ]  # fmt: skip
    name, said, condition = rng.choice(choices)
    return name, *rng.choice(said), condition


def number_transform(rng: random.Random) -> tuple[str, list[str], str]:
    """(name, ways to say it before "the numbers", expression of x)."""
    k = rng.randint(2, 20)
    return rng.choice((
        ("square", ["the squares of {}", "{} squared"], "x ** 2"),
        ("cube", ["the cubes of {}", "{} cubed"], "x ** 3"),
        ("double", ["the doubles of {}", "{} doubled", "twice {}"], "x * 2"),
        ("triple", ["{} tripled", "three times {}"], "x * 3"),
        ("abs", ["the absolute values of {}", "the absolute value of {}"], "abs(x)"),
        ("negate", ["the negatives of {}", "{} negated"], "-x"),
        ("plus", [f"{{}} plus {k}", f"{{}} increased by {k}"], f"x + {k}"),
        ("minus", [f"{{}} minus {k}", f"{{}} decreased by {k}"], f"x - {k}"),
        ("times", [f"{{}} times {k}", f"{{}} multiplied by {k}"], f"x * {k}"),
    ))  # fmt: skip


_AGGREGATES: dict[str, tuple[list[str], str, str]] = {
    "sum": (["the sum of {}", "the total of {}"], "sum({x})", "sum({g})"),
    "max": (["the largest of {}", "the maximum of {}", "the biggest of {}", "the highest of {}"], "max({x})", "max({g})"),
    "min": (["the smallest of {}", "the minimum of {}", "the lowest of {}"], "min({x})", "min({g})"),
    "count": (["the number of {}", "how many {}", "the count of {}"], "len({x})", "sum(1 for {c})"),
    "list": (["a list of {}", "{} as a list", "a new list with {}", "all {}"], "list({x})", "[{g}]"),
    "sorted": (["{} sorted in ascending order", "a sorted list of {}", "{} in sorted order"], "sorted({x})", "sorted({g})"),
    "descending": (
        ["{} sorted in descending order", "{} from largest to smallest"],
        "sorted({x}, reverse=True)", "sorted(({g}), reverse=True)",
    ),
    "mean": (["the average of {}", "the mean of {}"], "sum({x}) / len({x})", ""),
}  # fmt: skip
_NUMBER_CONTAINERS: list[tuple[str, str, list[str], str, Arguments]] = [
    ("list", "numbers", ["in a list", "in a list of numbers", "of a list", "in the list", "from a list"], "numbers",
     lambda r: [_numbers(r)]),
    ("list", "numbers", ["in a list", "in a list of integers", "in a given list", "of a list of numbers"], "numbers",
     lambda r: [_numbers(r)]),
    ("range", "n", ["from 1 to n", "between 1 and n"], "range(1, n + 1)", lambda r: [r.randint(21, 40)]),
]  # fmt: skip


def number_task(rng: random.Random) -> Task:
    """For instance "the sum of the squares of the even numbers in a list"."""
    agg = rng.choice(list(_AGGREGATES))
    container, parameter, wheres, source, arguments = rng.choice(_NUMBER_CONTAINERS)
    filtered, transformed = rng.random() < 0.65, rng.random() < 0.45 and agg not in ("count", "mean")
    if agg == "list" and not (filtered or transformed):
        filtered = True
    if agg == "mean":
        filtered = False
    if container == "range" and agg in ("max", "min", "count", "sorted") and not transformed:
        transformed = agg not in ("count",)
        filtered = True
    if agg == "count":
        filtered = True if container != "list" else filtered
    noun = rng.choice(("numbers", "numbers", "numbers", "values", "elements"))
    adjective, clause, condition, f_name = "", "", "", "all"
    if filtered:
        f_name, adjective, clause, condition = number_filter(rng)
    if container == "range":
        while f_name in ("negative", "positive"):
            f_name, adjective, clause, condition = number_filter(rng)
    place = rng.choice(wheres)
    if agg == "count" and "how" in (say := rng.choice(_AGGREGATES[agg][0])):
        what = (
            f"{adjective}{noun}{clause} are {place}"
            if not clause
            else f"{noun} {place} are{clause.replace(' that are', '')}"
        )
        described = say.format(what)
        t_name, expression = "same", "x"
    else:
        the = "" if agg in ("count", "list") and not transformed else "the "
        what = (
            f"{the}{adjective}{noun}{clause} {place}"
            if rng.random() < 0.7 or not clause
            else f"{the}{noun} {place}{clause}"
        )
        if agg in ("max", "min") and not transformed and rng.random() < 0.6:
            one = noun[:-1]
            best = rng.choice(
                {
                    "max": ["largest", "biggest", "maximum", "highest"],
                    "min": ["smallest", "lowest", "minimum"],
                }[agg]
            )
            clause_one = clause.replace("that are multiples", "that is a multiple").replace(
                "that are", "that is"
            )
            described, t_name, expression = f"the {best} {adjective}{one}{clause_one} {place}", "same", "x"
        else:
            t_name, expression = "same", "x"
            if transformed:
                t_name, t_said, expression = number_transform(rng)
                what = rng.choice(t_said).format(what)
            described = rng.choice(_AGGREGATES[agg][0]).format(what)
    described = "returns " + described
    loop = f"x in {source}" + (f" if {condition}" if condition else "")
    whole, each = _AGGREGATES[agg][1:]
    plain = f_name == "all" and t_name == "same"
    body = whole.format(x=source) if plain else each.format(g=f"{expression} for {loop}", c=loop)
    return Task(f"{container}:{agg}:{t_name}:{f_name}", described, parameter, body, arguments)


def word_task(rng: random.Random) -> Task:
    """For instance "a list of the words longer than 4 letters in upper case"."""
    k, c = rng.randint(2, 6), rng.choice("abcdefghijklmnoprstuvw")
    f_name, clause, condition = rng.choice((
        ("all", "", ""),
        ("longer", rng.choice((f" longer than {k} letters", f" longer than {k} characters", f" with more than {k} letters")), f"len(w) > {k}"),
        ("shorter", rng.choice((f" shorter than {k} letters", f" with fewer than {k} letters", f" shorter than {k} characters")), f"len(w) < {k}"),
        ("length", rng.choice((f" of length {k}", f" with exactly {k} letters")), f"len(w) == {k}"),
        ("starts", rng.choice((f" that start with '{c}'", f" starting with '{c}'", f" that begin with '{c}'")), f"w.startswith('{c}')"),
        ("ends", rng.choice((f" that end with '{c}'", f" ending with '{c}'", f" ending in '{c}'")), f"w.endswith('{c}')"),
        ("contains", rng.choice((f" that contain '{c}'", f" containing '{c}'", f" with the letter '{c}'")), f"'{c}' in w"),
    ))  # fmt: skip
    t_name, t_say, expression = rng.choice((
        ("same", "{}", "w"), ("same", "{}", "w"), ("same", "{}", "w"),
        ("upper", rng.choice(("{} in upper case", "{} in uppercase")), "w.upper()"),
        ("lower", rng.choice(("{} in lower case", "{} in lowercase")), "w.lower()"),
        ("len", rng.choice(("the lengths of {}", "the length of {}")), "len(w)"),
        ("reverse", rng.choice(("{} reversed", "{} spelled backwards")), "w[::-1]"),
        ("first", rng.choice(("the first letters of {}", "the first letter of {}")), "w[0]"),
        ("last", rng.choice(("the last letters of {}", "the last letter of {}")), "w[-1]"),
    ))  # fmt: skip
    container, parameter, place, source, arguments = rng.choice((
        ("words", "words", rng.choice(("in a list", "in a list of words", "in a list of strings", "of a list")), "words", _word_list),
        ("sentence", "text", rng.choice(("in a sentence", "of a sentence", "in a text")), "text.split()", _sentence),
    ))  # fmt: skip
    noun = "words" if "strings" not in place else "strings"
    if container == "words" and "list of strings" not in place and rng.random() < 0.2:
        noun = "strings"
    what = f"{noun}{clause} {place}" if rng.random() < 0.5 else f"{noun} {place}{clause}"
    loop = f"w in {source}" + (f" if {condition}" if condition else "")
    kind = rng.choice(("list", "count", "join", "sorted", "longest", "shortest", "any", "all"))
    if kind in ("any", "all") and condition:
        is_one = {"longer": f"is longer than {k} letters", "shorter": f"is shorter than {k} letters", "length": f"has {k} letters",
                  "starts": f"starts with '{c}'", "ends": f"ends with '{c}'", "contains": f"contains '{c}'"}[f_name]  # fmt: skip
        verb = rng.choice(("checks whether", "checks if", "tells whether", "returns True if"))
        each = "any" if kind == "any" else "every"
        return Task(f"{container}:{kind}:{f_name}", f"{verb} {each} {noun[:-1]} {place} {is_one}", parameter,
                    f"{kind}({condition} for w in {source})", arguments)  # fmt: skip
    if kind in ("longest", "shortest"):
        described = (
            f"returns the {kind} {noun[:-1]}{clause} {place}".replace("that start", "that starts")
            .replace("that end ", "that ends ")
            .replace("that begin ", "that begins ")
            .replace("that contain ", "that contains ")
        )
        fn = "max" if kind == "longest" else "min"
        if not condition:
            return Task(
                f"{container}:{kind}:all", described, parameter, f"{fn}({source}, key=len)", arguments
            )
        return Task(
            f"{container}:{kind}:{f_name}",
            described,
            parameter,
            f"{fn}(({loop_of(loop)}), key=len)",
            arguments,
        )
    if kind == "count" or (kind in ("any", "all")):
        say = rng.choice(("returns the number of {}", "counts the {}", "returns how many {}"))
        body = f"len({source})" if not condition else f"sum(1 for {loop})"
        if "how many" in say:
            verb = rng.choice(("there are", "there are"))
            what = f"{noun}{clause} {verb} {place}"
        return Task(f"{container}:count:{f_name}", say.format(what), parameter, body, arguments)
    said = t_say.format(f"the {what}")
    if kind == "join":
        if t_name == "len":
            t_name, expression, said = "same", "w", f"the {what}"
        sep, sep_said = rng.choice(
            ((", ", "commas"), ("-", "dashes"), (" ", "spaces"), ("", "nothing between them"))
        )
        if sep == ", ":
            sep, sep_said = ",", "commas"
        described = f"{rng.choice(('joins', 'returns a string that joins'))} {said} with {sep_said}"
        return Task(
            f"{container}:join:{t_name}:{f_name}",
            described,
            parameter,
            f"'{sep}'.join({expression} for {loop})",
            arguments,
        )
    if kind == "list" and t_name == "same" and not condition:
        kind = "sorted"
    sayings = {"list": ("returns {}", "returns a list of {}", "returns a list with {}"),
               "sorted": ("returns {} in sorted order", "returns a sorted list of {}", "sorts {}")}[kind]  # fmt: skip
    if kind == "sorted" and t_name == "same" and not condition:
        body = f"sorted({source})"
    else:
        body = f"[{expression} for {loop}]" if kind == "list" else f"sorted({expression} for {loop})"
    return Task(
        f"{container}:{kind}:{t_name}:{f_name}", rng.choice(sayings).format(said), parameter, body, arguments
    )


def loop_of(loop: str) -> str:
    """A generator expression that yields the words of `loop` as they are."""
    return f"w for {loop}"


def _word_list(rng: random.Random) -> list[Any]:
    words = _words(rng)
    return [[*words, rng.choice(words)]]


def _sentence(rng: random.Random) -> list[Any]:
    return [" ".join(_words(rng))]


def character_task(rng: random.Random) -> Task:
    """For instance "counts the vowels in a string"."""
    c = rng.choice("abcdefghiklmnoprstuw")
    f_name, plural, condition = rng.choice((
        ("vowel", "vowels", "c in 'aeiouAEIOU'"),
        ("digit", "digits", "c.isdigit()"),
        ("upper", rng.choice(("uppercase letters", "upper case letters", "capital letters")), "c.isupper()"),
        ("lower", rng.choice(("lowercase letters", "lower case letters", "small letters")), "c.islower()"),
        ("letter", rng.choice(("letters", "alphabetic characters")), "c.isalpha()"),
        ("space", "spaces", "c == ' '"),
        ("consonant", "consonants", "c.isalpha() and c not in 'aeiouAEIOU'"),
        ("char", rng.choice((f"letters '{c}'", f"'{c}' characters")), f"c == '{c}'"),
        ("alnum", rng.choice(("letters and digits", "alphanumeric characters")), "c.isalnum()"),
    ))  # fmt: skip
    place = rng.choice(("in a string", "in a text", "of a string"))
    negated = {"vowel": "c not in 'aeiouAEIOU'", "digit": "not c.isdigit()", "space": "c != ' '", "char": f"c != '{c}'",
               "upper": "not c.isupper()", "letter": "not c.isalpha()"}  # fmt: skip
    kind = rng.choice(("count", "count", "keep", "remove", "list", "any", "upper", "lower", "set"))
    if kind == "remove" and f_name not in negated:
        kind = "keep"
    where = place.replace("in a", "from a").replace("of a", "from a")
    upper = {"upper": "upper case", "lower": "lower case"}
    described, body = {
        "count": (rng.choice((f"counts the {plural} {place}", f"returns the number of {plural} {place}",
                              f"returns how many {plural} are {place.replace('of', 'in')}")), f"sum(1 for c in text if {condition})"),
        "keep": (rng.choice((f"keeps only the {plural} of a string", f"returns only the {plural} {place}")), f"''.join(c for c in text if {condition})"),
        "remove": (rng.choice((f"removes all {plural} {where}", f"returns a string without its {plural}", f"deletes the {plural} {where}")),
                   f"''.join(c for c in text if {negated.get(f_name)})"),
        "list": (f"returns a list of the {plural} {place}", f"[c for c in text if {condition}]"),
        "set": (f"returns the sorted distinct {plural} {place}", f"sorted(set(c for c in text if {condition}))"),
        "any": (rng.choice((f"checks whether a string contains any {plural}", f"checks if a string has any {plural}")), f"any({condition} for c in text)"),
        "upper": (f"returns the {plural} {place} in {upper['upper']}", f"''.join(c.upper() for c in text if {condition})"),
        "lower": (f"returns the {plural} {place} in {upper['lower']}", f"''.join(c.lower() for c in text if {condition})"),
    }[kind]  # fmt: skip
    return Task(f"chars:{kind}:{f_name}", described, "text", body, lambda r: [_text(r)])
