"""The later part of a prompt, read alone: is it for somebody else than the whole?

Whoever can put words before a prompt (a template, a page that is quoted, somebody with bad intent) could
send it to an agent of their choice. What comes after those words is the prompt as it was. Beginnings are not
looked at: in honest prompts they are often "can you tell me" and the like, and for nobody.
"""

from __future__ import annotations

import re

PREFIX_WORDS = 8
"""Of words put before a prompt, so many are seen through."""
MIN_WORDS, MAX_WORDS = 2, 10
"""Of the later part that are read."""

_WORD = re.compile(r"\S+")


def later_part(prompt: str) -> str | None:
    """The words after the first eight, at most ten; None if there are not at least two."""
    spans = [found.span() for found in _WORD.finditer(prompt)][PREFIX_WORDS : PREFIX_WORDS + MAX_WORDS]
    return prompt[spans[0][0] : spans[-1][1]] if len(spans) >= MIN_WORDS else None
