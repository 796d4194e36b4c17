"""Requests for a short poem under constraints: number of lines, a topic, words that must occur."""

from __future__ import annotations

import random

from demo.tasks import creative_frames as f
from demo.tasks.example import Example, Split
from demo.tasks.frames import vary
from demo.words.entities import draw_lower, pool

_COUNTS = {1: ("one", "1"), 2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}


def topic(rng: random.Random, split: Split) -> str:
    """What the poem is about, with its article if it has one."""
    if rng.random() < (0.6 if split == "train" else 0.85):
        return rng.choice(pool("topics", split))
    return rng.choice(("", "", "the ", "a ", "my ")) + draw_lower(rng, split, "topics", 1.0)


def word(rng: random.Random, split: Split) -> str:
    """A word that must occur."""
    return draw_lower(rng, split, "poem_words", 0.35 if split == "train" else 0.1)


def poem(rng: random.Random, n_lines: int, about: str, words: list[str]) -> str:
    """Lines of one rhyme; the topic comes first, each required word gets a line while there are enough."""
    topics, slots, plain = rng.choice(f.RHYMES)
    if n_lines == 1:
        template = rng.choice(f.ONE_LINE[len(words)])
        return template.format(topic=about, word=words[0] if words else "", other=words[-1] if words else "")
    todo = list(words)
    if len(words) >= n_lines:
        lines = [rng.choice(f.BOTH).format(topic=about, word=todo.pop(0))]
    else:
        lines = [rng.choice(topics).format(topic=about)]
    # A line of its own for each place: a small model cannot count, but it can see what it wrote last.
    for place in range(n_lines - 1):
        lines.append(slots[place].format(word=todo.pop(0)) if todo else plain[place])
    text = "\n".join(line[0].upper() + line[1:] for line in lines)
    return text.removesuffix(",") + ("." if text.endswith(",") else "")


def example(rng: random.Random, split: Split) -> Example:
    """One request, for instance "Write a two-line poem about rain with the word 'silver'"."""
    n = rng.choice((1, 2, 2, 2, 2, 3, 3, 4, 4))
    about = topic(rng, split)
    words: list[str] = []
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2))):
        new = word(rng, split)
        if new not in words and new not in about.split():
            words.append(new)
    frame = f.ASKS.pick(rng, split)
    tail = "" if not words else (f.WITH_ONE if len(words) == 1 else f.WITH_TWO).pick(rng, split)
    quote = rng.choice(("'{}'", '"{}"', "{}", "'{}'"))
    said = [quote.format(w) for w in words]
    number = rng.choice(_COUNTS[n])
    plural = "line" if n == 1 else "lines"
    if "{form}" in frame and n in f.FORMS and rng.random() < 0.3:
        form = rng.choice(f.FORMS[n])
    else:
        form = f"{number}-line {rng.choice(('poem', 'poem', 'poem', 'verse', 'rhyme', 'song'))}"
    prompt = frame.format(form=form, n=number, lines=plural, topic=about)
    end = prompt[-1] if prompt[-1] in ".:" else ""
    if tail:
        joint = "" if tail.startswith(".") else " "
        prompt = prompt.rstrip(".") + joint + tail.format(word=said[0], other=said[-1])
        prompt += end if rng.random() < 0.8 else ""
    key = about.split()[-1]
    note = f"~ {about} / {n}{''.join(f' / {w}' for w in words)}\n{(text := poem(rng, n, about, words))}"
    return Example(
        "creative",
        vary(rng, prompt),
        text,
        {"lines": n, "words": words, "topic": key},
        f"{frame}|{tail}",
        note,
        len(note) - len(text),
        entities=(key, *words),
    )
