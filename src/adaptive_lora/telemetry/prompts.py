"""What logs say of prompts: by default how long each is, and a keyed hash that tells equal ones.

A plain hash would let whoever reads the logs try guesses; with the key he cannot.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final, Literal

import msgspec

from adaptive_lora.types import Prompt

Mode = Literal["none", "hash", "full"]

MAX_SHOWN_CHARS: Final = 2_000
"""Of a prompt's text, with mode "full"."""
MAX_SHOWN: Final = 16
"""Prompts of one request whose hash, or text, is shown."""

prompts_var: ContextVar[list[Prompt] | None] = ContextVar("prompts", default=None)
"""The prompts of the request that the current task serves, as far as they are read; None: nobody asks."""


def note(prompt: Prompt) -> None:
    """The current request has this prompt."""
    prompts = prompts_var.get()
    if prompts is not None:
        prompts.append(prompt)


class PromptLog:
    """Describes prompts for a log line. Processes with the same `secret` give a prompt the same hash."""

    def __init__(self, mode: Mode, secret: str | None = None) -> None:
        self.mode = mode
        self._key = secret.encode() if secret is not None else secrets.token_bytes(32)

    def fields(self, prompts: Sequence[Prompt]) -> dict[str, object]:
        """`prompt_chars` of all together, `prompt_hash` and with mode "full" `prompt`: lists, and
        `n_prompts`, if there are several. Empty if there is none, or nothing may be said."""
        if self.mode == "none" or not prompts:
            return {}
        shown = prompts[:MAX_SHOWN]
        fields: dict[str, object] = {"prompt_chars": sum(map(_n_chars, prompts))}
        columns: dict[str, list[str]] = {"prompt_hash": [self.hash(prompt) for prompt in shown]}
        if self.mode == "full":
            columns["prompt"] = [_shortened(_text(prompt)) for prompt in shown]
        if len(prompts) == 1:
            return fields | {name: column[0] for name, column in columns.items()}
        return fields | {"n_prompts": len(prompts)} | columns

    def hash(self, prompt: Prompt) -> str:
        """16 hexadecimal digits of HMAC-SHA256."""
        content = prompt if isinstance(prompt, str) else [(turn.role, turn.content) for turn in prompt]
        try:
            encoded = msgspec.json.encode(content)
        except UnicodeEncodeError:  # lone surrogates, which UTF-8 cannot write
            encoded = repr(content).encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, encoded, "sha256").hex()[:16]


def _n_chars(prompt: Prompt) -> int:
    return len(prompt) if isinstance(prompt, str) else sum(len(turn.content) for turn in prompt)


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(f"{t.role}: {t.content}" for t in prompt)


def _shortened(text: str) -> str:
    n_more = len(text) - MAX_SHOWN_CHARS
    return text if n_more <= 0 else f"{text[:MAX_SHOWN_CHARS]}... ({n_more} more characters)"
