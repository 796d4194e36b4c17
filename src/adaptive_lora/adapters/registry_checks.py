"""What may stand in the registry: words, lengths, shares. Raises InvalidRequest, and says what is allowed."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from adaptive_lora.adapters.manifest import RESERVED_NAMES
from adaptive_lora.adapters.records import PROD, NewVersion
from adaptive_lora.errors import InvalidRequest

MAX_WHO_CHARS = 64
MAX_WHY_CHARS = 500
MAX_SOURCE_CHARS = 2_048
MAX_TEXT_CHARS = 2_000
MAX_SPEC_CHARS = 512
MAX_REPORT_BYTES = 1_000_000

_WORD = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""As in the grammar of model names (agents/names.py)."""
_VERSION = re.compile(r"[0-9a-f]{12}")
_VERSION_PREFIX = re.compile(r"[0-9a-f]{4,12}")


def check_name(name: str) -> None:
    _check_word("an adapter's name", name)
    if name in RESERVED_NAMES:
        raise InvalidRequest(f"the name {name!r} is reserved: choose another")


def check_version(version: str) -> None:
    if not _VERSION.fullmatch(version):
        raise InvalidRequest(f"{version[:80]!r} is no version: 12 hexadecimal digits")


def check_alias(alias: str) -> None:
    _check_word("an alias", alias)
    if _VERSION_PREFIX.fullmatch(alias):
        raise InvalidRequest(
            f"the alias {alias!r} could be a version's first digits: use a letter past 'f', a '-', or more "
            "than 12 characters"
        )


def check_agent(agent: str) -> None:
    """A name, or an id."""
    name, at, version = agent.partition("@")
    check_name(name)
    if at:
        check_version(version)


def check_kind(kind: str) -> None:
    _check_word("a report's kind", kind)


def check_who(who: str) -> None:
    if not who.strip():
        raise InvalidRequest("say who makes the change")
    _check_text("who", who, MAX_WHO_CHARS, allowed="")


def check_why(why: str) -> None:
    _check_text("why", why, MAX_WHY_CHARS)


def check_share(alias: str, share: float | None) -> None:
    if share is None:
        return
    if alias == PROD:
        raise InvalidRequest(f"{PROD!r} has no share of its own: it takes what the others leave")
    if not (math.isfinite(share) and 0 < share < 1):
        raise InvalidRequest(f"a share is a number above 0 and below 1, not {share!r}")


def check_spec(spec: str) -> None:
    if not spec.strip():
        raise InvalidRequest("a composition is written like 'code:0.7+reasoning:0.3'")
    _check_text("a composition", spec, MAX_SPEC_CHARS, allowed="")


def checked_version(new: NewVersion) -> NewVersion:
    """`new`, its source without what could open it."""
    check_name(new.name)
    check_version(new.version)
    _check_text("a description", new.description, MAX_TEXT_CHARS)
    _check_text("a source", new.source, MAX_SOURCE_CHARS, allowed="")
    _check_text("a base model's name", new.base_model, MAX_TEXT_CHARS, allowed="")
    _check_text("a refusal", new.refusal or "", 10 * MAX_TEXT_CHARS)
    return replace(new, source=without_credentials(new.source))


def without_credentials(source: str) -> str:
    """A URL without user and password, and without its query, where signatures stand.

    A user alone is a container's name in Azure's URLs (az://container@account/...), and stays but for HTTP,
    where it is a token.
    """
    if "://" not in source:
        return source
    try:
        parts = urlsplit(source)
    except ValueError as error:
        raise InvalidRequest(f"the source is no valid URL: {error}") from None
    user, at, host = parts.netloc.rpartition("@")
    if at and (":" in user or parts.scheme in ("http", "https")):
        parts = parts._replace(netloc=host)
    return urlunsplit(parts._replace(query="", fragment=""))


def checked_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """`report` as it will be read back: plain JSON values."""
    try:
        text = json.dumps(dict(report), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"a report must be JSON, without NaN and infinity: {error}") from None
    if len(text) > MAX_REPORT_BYTES:
        raise InvalidRequest(f"a report is longer than {MAX_REPORT_BYTES:,} bytes")
    content: dict[str, Any] = json.loads(text)
    return content


def _check_word(what: str, word: str) -> None:
    if not _WORD.fullmatch(word):
        raise InvalidRequest(
            f"{word[:80]!r} is not allowed as {what}: 1 to 63 characters of a-z, 0-9, '_' and '-', beginning "
            "with a letter or digit"
        )


def _check_text(what: str, text: str, max_chars: int, *, allowed: str = "\n\t\r") -> None:
    if len(text) > max_chars:
        raise InvalidRequest(f"{what} is longer than {max_chars:,} characters")
    for character in text:
        if character not in allowed and unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise InvalidRequest(f"{what} contains the character U+{ord(character):04X}: remove it")
