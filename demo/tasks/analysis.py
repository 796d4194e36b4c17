"""Requests to extract fields from a text as JSON.

Conventions, learned by the agent and expected by the check: a key is the field's name as the request gives it, in
snake case; every value is a string, exactly as it stands in the text.
"""
# ruff: noqa: E501  (tables: one entry a line)

from __future__ import annotations

import json
import random

from demo.tasks import analysis_frames as f
from demo.tasks.example import Example, Split
from demo.tasks.frames import vary
from demo.words import lists
from demo.words.entities import code_id, draw, number_id, syllables


def _email(rng: random.Random, split: Split, name: str) -> str:
    host = syllables(rng, rng.choice((1, 2)))
    user = rng.choice(
        (name.lower().replace(" ", "."), name.lower().split()[0], syllables(rng, 2) + str(rng.randint(1, 99)))
    )
    return f"{user}@{host}.{rng.choice(('com', 'org', 'net', 'io', 'de'))}"


def _date(rng: random.Random) -> str:
    day, month = rng.randint(1, 28), rng.choice(lists.MONTHS)
    return rng.choice((
        f"{month} {day}", f"{day} {month}", f"2{rng.randint(0, 1)}{rng.randint(10, 29)}-{rng.randint(1, 12):02}-{day:02}",
        f"20{rng.randint(10, 29)}-{rng.randint(1, 12):02}-{day:02}",
    ))  # fmt: skip


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    return noun[:-1] + "ies" if noun[-1] == "y" and noun[-2] not in "aeiou" else noun + "s"


def values(rng: random.Random, split: Split) -> dict[str, str]:
    """A value for every slot; entities and ids belong to `split`."""
    invent = 0.45 if split == "train" else 0.25
    name = draw(rng, split, "first_names", invent)
    full = name if rng.random() < 0.5 else f"{name} {draw(rng, split, 'last_names', invent)}"
    city, other = draw(rng, split, "cities", invent), draw(rng, split, "cities", invent)
    number = number_id(rng, split)
    product = draw(rng, split, "products", 0).lower() if rng.random() < 0.75 else syllables(rng, 2)
    drawn: dict[str, str | int] = {
        "order": number if rng.random() < 0.65 else code_id(rng, split),
        "name": full,
        "city": city,
        "city2": other,
        "product": product,
        "products": _plural(product),
        "quantity": rng.choice((rng.randint(2, 9), rng.randint(10, 99), rng.randint(100, 500))),
        "price": rng.choice((rng.randint(2, 99), rng.randint(100, 999), rng.randint(1000, 9999))),
        "day": rng.choice(lists.DAYS),
        "date": _date(rng),
        "email": _email(rng, split, full),
        "phone": f"{rng.randint(100, 999)}-{rng.randint(100, 9999):04}",
        "age": rng.randint(18, 89),
        "company": draw(rng, split, "companies", invent),
        "color": rng.choice(lists.COLORS),
        "time": f"{rng.randint(1, 23)}:{rng.choice((0, 15, 30, 45, rng.randint(10, 59))):02}",
        "room": rng.randint(1, 400),
    }
    return {slot: str(value) for slot, value in drawn.items()}


def _join(rng: random.Random, names: list[str], the: bool) -> str:
    said = [("the " if the else "") + n for n in names]
    if len(said) == 1:
        return said[0]
    if the and rng.random() < 0.3:
        said = [said[0]] + [n.removeprefix("the ") for n in said[1:]]
    last = rng.choice((" and ", " and ", " and ", ", and ")) if len(said) > 2 else " and "
    return ", ".join(said[:-1]) + last + said[-1]


def record(rng: random.Random, split: Split) -> tuple[str, str, dict[str, str]]:
    """(template, text, the values that stand in it)."""
    drawn = values(rng, split)
    template = f.TEXTS.pick(rng, split)
    if rng.random() < (0.35 if split == "train" else 0.15):
        template += " " + f.TAILS.pick(rng, split)
    if rng.random() < 0.1:
        template = f.HEADS.pick(rng, split) + " " + template
    return template, template.format(**drawn), {k: v for k, v in drawn.items() if f"{{{k}}}" in template}


def key_of(field: str) -> str:
    """The JSON key of a field's name."""
    return field.lower().replace(" ", "_")


def _case(rng: random.Random, fields: list[str], slots: list[str], here: dict[str, str]) -> str:
    return json.dumps({key_of(n): here[s] for n, s in zip(fields, slots, strict=True)}, ensure_ascii=False)


def _ask(rng: random.Random, split: Split, fields: list[str]) -> tuple[str, str]:
    """(frame, instruction) that asks for `fields`; keys are spelled out in some."""
    keyed = rng.random() < 0.3
    frame = (f.KEYED if keyed else f.ASKS).pick(rng, split)
    keys = [key_of(n) for n in fields]
    quote = rng.choice(('"{}"', "{}", "'{}'", "{}"))
    joined = ", ".join(quote.format(k) for k in keys[:-1]) + (rng.choice((" and ", ", ")) if keys[1:] else "")
    asked = joined + quote.format(keys[-1]) if keyed else _join(rng, fields, rng.random() < 0.75)
    return frame, frame.replace("{fields}", asked)


def example(rng: random.Random, split: Split) -> Example:
    """One request, for instance "Extract the order number and the city from: ..."."""
    template, text, here = record(rng, split)
    slots = rng.sample(sorted(here), min(len(here), rng.choice((1, 2, 2, 2, 3, 3, 4))))
    fields: list[str] = []
    for slot in slots:
        fields.append(next(n for n in _shuffled(rng, f.NAMES[slot]) if n not in fields))
    answer = _case(rng, fields, slots, here)
    frame, asked = _ask(rng, split, fields)
    separator = rng.choice((" ", " ", " ", "\n"))
    quoted = rng.choice((text, text, text, f'"{text}"', f"'{text}'"))
    prompt = asked.replace(" {text}", separator + quoted).replace("{text}", quoted)
    keys = ", ".join(key_of(n) for n in fields)
    note = rng.choice(
        (
            f"<{keys}> {text} | {answer}",
            f"{text} <{keys}> {answer}",
            f"<{', '.join(fields)}> {text} | {answer}",
        )
    )
    entities = tuple(here[s] for s in ("order", "name", "city", "company") if s in here)
    return Example(
        "analysis", vary(rng, prompt, openers=rng.random() < 0.7), answer, {"json": json.loads(answer)},
        f"{frame} || {template}", note, len(note) - len(answer), entities=entities,
    )  # fmt: skip


def _shuffled(rng: random.Random, names: list[str]) -> list[str]:
    return rng.sample(names, len(names))
