"""The one grammar for whatever a caller may ask for, and its one parser.

    name         = "auto" | "base" | agent | composition | team
    agent        = WORD [ "@" WORD ]                 code · code@3f9c2a · code@canary
    composition  = part { "+" part }                 code:0.7+reasoning:0.3
    part         = agent ":" WEIGHT
    team         = "team/" WORD                      team/review

    WORD         = a-z 0-9 "_" "-", 1 to 63 characters, beginning with a letter or digit
    WEIGHT       = decimal number, more than 0 and at most 4

What follows an "@" is a prefix of a version (4 to 12 hex digits) or else an alias.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from adaptive_lora.errors import InvalidName
from adaptive_lora.types import BASE

AUTO = "auto"
TEAM_PREFIX = "team/"
MAX_NAME_CHARS = 512
MAX_PARTS = 8
MAX_WEIGHT = 4.0

_WORD = r"[a-z0-9][a-z0-9_-]{0,62}"
_AGENT = re.compile(rf"({_WORD})(?:@({_WORD}))?")
_TEAM = re.compile(rf"team/({_WORD})")
_WEIGHT = re.compile(r"[0-9]{1,2}(?:\.[0-9]{1,6})?")
_VERSION_PREFIX = re.compile(r"[0-9a-f]{4,12}")

ALLOWED = (
    "use 'auto', 'base', an agent ('code'), a version or an alias of it ('code@3f9c2a', 'code@canary'), "
    "a composition ('code:0.7+reasoning:0.3') or a team ('team/review'); agents are a-z, 0-9, '_' and '-'"
)


@dataclass(frozen=True, slots=True)
class Auto:
    """The router decides."""

    def __str__(self) -> str:
        return AUTO


@dataclass(frozen=True, slots=True)
class Base:
    """The plain base model."""

    def __str__(self) -> str:
        return BASE


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent by name, and perhaps a version of it: `ref` is what stands after the "@"."""

    name: str
    ref: str | None = None

    @property
    def is_version(self) -> bool:
        """Whether `ref` is a version's prefix. An alias made of 4 to 12 hex digits cannot be told from
        one."""
        return self.ref is not None and _VERSION_PREFIX.fullmatch(self.ref) is not None

    def __str__(self) -> str:
        return self.name if self.ref is None else f"{self.name}@{self.ref}"


@dataclass(frozen=True, slots=True)
class Composition:
    """A weighted sum of agents. Weights need not sum to 1."""

    parts: tuple[tuple[Agent, float], ...]

    def __str__(self) -> str:
        return "+".join(f"{agent}:{weight:g}" for agent, weight in self.parts)


@dataclass(frozen=True, slots=True)
class Team:
    """Several agents that work together."""

    name: str

    def __str__(self) -> str:
        return f"{TEAM_PREFIX}{self.name}"


AgentName = Auto | Base | Agent | Composition | Team


def parse_name(text: str) -> AgentName:
    """Parse one name; `str()` of the result parses to the same. Raises InvalidName, which says what is
    allowed."""
    if len(text) > MAX_NAME_CHARS:
        raise InvalidName(f"the name is longer than {MAX_NAME_CHARS} characters: {ALLOWED}")
    if text == AUTO:
        return Auto()
    if text == BASE:
        return Base()
    if text.startswith(TEAM_PREFIX):
        if found := _TEAM.fullmatch(text):
            return Team(found[1])
        raise _invalid(text)
    if ":" in text or "+" in text:
        return _parse_composition(text)
    return _parse_agent(text, whole=text)


def _parse_agent(text: str, *, whole: str) -> Agent:
    found = _AGENT.fullmatch(text)
    if not found or found[1] in (AUTO, BASE):
        raise _invalid(whole)
    return Agent(found[1], found[2])


def _parse_composition(text: str) -> Composition:
    pieces = text.split("+")
    if len(pieces) > MAX_PARTS:
        raise InvalidName(f"a composition has at most {MAX_PARTS} parts")
    parts: list[tuple[Agent, float]] = []
    for piece in pieces:
        agent_text, _, weight_text = piece.partition(":")
        agent = _parse_agent(agent_text, whole=text)
        if not _WEIGHT.fullmatch(weight_text) or not 0 < float(weight_text) <= MAX_WEIGHT:
            raise InvalidName(
                f"the weight of {str(agent)!r} in a composition is a number above 0 and at most "
                f"{MAX_WEIGHT:g}, written like 'code:0.7'"
            )
        if agent in [known for known, _ in parts]:
            raise InvalidName(f"{str(agent)!r} stands twice in one composition: add its weights")
        parts.append((agent, float(weight_text)))
    return Composition(tuple(parts))


def _invalid(text: str) -> InvalidName:
    return InvalidName(f"{text[:80]!a} is not a model name: {ALLOWED}")
