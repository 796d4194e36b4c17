"""What makes two requests the same, as 32 bytes.

The key is a hash over an injective encoding: whatever differs in any field gives other bytes, so that no two
requests share a key by how their fields happen to join (GHSA-vxqx-rh46-q2pg).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from operator import attrgetter
from typing import Final

from adaptive_lora.types import GenerateRequest, Prompt, SamplingConfig

KEY_FORMAT: Final = "adaptive-lora answer 1"
"""Raise the number when the meaning of a field changes: every key becomes another one."""

_sampling_fields = tuple(field.name for field in fields(SamplingConfig))
_sampling_values = attrgetter(*_sampling_fields)
_SAMPLING_NAMES: Final = " ".join(_sampling_fields)
"""Beside the values: a field that is added later is in the key by itself, and every key another one."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model answers, as far as a kept answer depends on it."""

    name: str
    fingerprint: str
    """Of the base model's weights and configuration."""
    text_fingerprint: str
    """Of its tokenizer and chat template."""
    options: tuple[tuple[str, str | int | None], ...] = ()
    """What else changes its numbers or bounds its answers: quantisation, data type, context, namespace."""


class KeyMaker:
    """Makes keys. With a `secret`, who reads them cannot test whether a prompt was asked."""

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = hmac.digest(secret, b"cache key", "sha256") if secret else None

    def answer(self, model: ModelIdentity, tenant: str, request: GenerateRequest) -> bytes:
        """The key of an answer: everything that it depends on, and whose it is. The request's own id and its
        salt are no part of it."""
        return self.digest(
            KEY_FORMAT,
            tenant,
            _model_digest(model),
            request.adapter_id,
            _turns(request.prompt),
            _SAMPLING_NAMES,
            _sampling_values(request.sampling),
        )

    def digest(self, *values: object) -> bytes:
        """32 bytes that no other sequence of values has: SHA-256; with a secret, HMAC-SHA256 of that."""
        digest = hashlib.sha256(encode_value(values)).digest()
        return digest if self._secret is None else hmac.digest(self._secret, digest, "sha256")


def encode_value(value: object) -> bytes:
    """One value as bytes that no other value has: each begins with its type and says how long it is.

    None, bool, int, float, str, bytes, sequences, and mappings from str in their order (the grammar of a
    JSON schema follows it). 1, 1.0 and True are three values. Raises TypeError for anything else.
    """
    out = bytearray()
    _write(value, out)
    return bytes(out)


def _write(value: object, out: bytearray) -> None:
    match value:
        case None:
            out += b"n"
        case bool():
            out += b"t" if value else b"f"
        case int():
            _write_sized(b"i", b"%d" % value, out)
        case float():
            out += b"d" + struct.pack(">d", value)
        case str():
            _write_sized(b"s", value.encode("utf-8", "surrogatepass"), out)
        case bytes():
            _write_sized(b"b", value, out)
        case tuple() | list():  # most of them; `Sequence` asks longer
            out += b"l" + struct.pack(">Q", len(value))
            for item in value:
                _write(item, out)
        case Mapping():
            out += b"m" + struct.pack(">Q", len(value))
            for name, item in value.items():
                if not isinstance(name, str):
                    raise TypeError(f"keys of a mapping must be text, not {type(name).__name__}")
                _write(name, out)
                _write(item, out)
        case Sequence():
            out += b"l" + struct.pack(">Q", len(value))
            for item in value:
                _write(item, out)
        case _:
            raise TypeError(f"{type(value).__name__} cannot be part of a key")


def _write_sized(kind: bytes, data: bytes, out: bytearray) -> None:
    out += kind + struct.pack(">Q", len(data)) + data


@lru_cache(maxsize=8)
def _model_digest(model: ModelIdentity) -> bytes:
    values = (model.name, model.fingerprint, model.text_fingerprint, model.options)
    return hashlib.sha256(encode_value(values)).digest()


def _turns(prompt: Prompt) -> tuple[object, ...]:
    """A raw prompt and a conversation of the same text are two prompts."""
    if isinstance(prompt, str):
        return ("raw", prompt)
    return ("chat", tuple((turn.role, turn.content) for turn in prompt))
