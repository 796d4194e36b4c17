"""How much of the engine's time a regular expression of a JSON Schema takes, before the engine sees it.

A grammar writes bounded repetitions out, and one inside another can be read in very many ways: with a
vocabulary of 100,000 tokens the 19 characters of `([a-z]{0,16}){0,16}` took a core 21 s, and nothing stops a
compilation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from adaptive_lora.serving import limits

_TOKEN = re.compile(
    r"(?P<open>\((?:\?(?:[:=!]|<[=!]|P?<\w+>))?)|(?P<close>\))|(?P<or>\|)"
    r"|(?P<repeat>\{(?P<least>\d+)(?P<range>,(?P<most>\d*))?\})|(?P<maybe>\?)|(?P<loop>[*+])"
    r"|(?P<atom>\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.)",
    re.DOTALL,
)


@dataclass
class _Part:
    """A piece of a pattern, written out."""

    places: int = 0
    levels: int = 0
    """Repetitions of varying length inside each other."""

    @property
    def weight(self) -> int:
        return self.places * (2**self.levels if self.levels > 1 else 1)


def pattern_cost(pattern: str) -> int:
    """Places of the pattern with its bounded repetitions written out; where such of varying length stand
    inside each other, doubled for each. What is no regular expression costs something, too: refusing it is
    the engine's affair. Raises ValueError for a bound that the engine's grammar does not have."""
    groups: list[list[_Part]] = [[]]
    for token in _TOKEN.finditer(pattern):
        kind = token.lastgroup if token.lastgroup not in ("least", "range", "most") else "repeat"
        parts = groups[-1]
        if kind == "open":
            groups.append([])
        elif kind == "close" and len(groups) > 1:
            groups.pop()
            groups[-1].append(_joined(parts))
        elif kind == "repeat" and parts:
            times = max(int(token["least"]), int(token["most"] or 0))
            if times > limits.MAX_PATTERN_REPEAT:
                raise ValueError(
                    f"a repetition in a pattern is at most {{{limits.MAX_PATTERN_REPEAT}}}: write + or *, or "
                    "maxLength in place of the pattern"
                )
            parts[-1] = _repeated(parts[-1], times, varies=token["range"] is not None)
        elif kind == "maybe" and parts:
            parts[-1] = _repeated(parts[-1], 1, varies=True)
        elif kind == "atom":
            parts.append(_Part(1))
    return sum(part.weight for parts in groups for part in parts)


def _joined(parts: list[_Part]) -> _Part:
    return _Part(sum(part.places for part in parts), max((part.levels for part in parts), default=0))


def _repeated(part: _Part, times: int, *, varies: bool) -> _Part:
    return _Part(part.places * max(1, times), part.levels + (1 if varies or part.levels else 0))
