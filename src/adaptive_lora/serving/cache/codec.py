"""Values of the cache as bytes, and back: compressed, bounded, versioned, and bound to their key."""

from __future__ import annotations

import hashlib
import hmac
import zlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from adaptive_lora.types import TokenChunk

VERSION: Final = b"\x01"
"""The byte after the tag. What another version wrote is no value."""
TAG_BYTES: Final = 16
MAX_INFLATION: Final = 64
"""Times `max_bytes` that a value may have before it is compressed: reading one never takes more memory."""


class Undecodable(Exception):
    """Not what `Codec.encode` wrote for this key: damaged, of another version, or somebody else's."""


class Codec:
    """Values of at most `max_bytes`, compressed.

    With a `secret`, the tag over key and value is a keyed hash: who can write to the store, but does not know
    the secret, can neither forge an answer nor move one to another key. Without one it finds damage only.
    """

    def __init__(self, max_bytes: int, secret: bytes | None = None) -> None:
        self.max_bytes = max_bytes
        self._secret = hmac.digest(secret or b"", b"cache value", "sha256")

    def encode(self, key: bytes, value: Any) -> bytes | None:
        """Anything that MessagePack can hold; None if it is too large, or text that UTF-8 cannot write.
        `key` is 32 bytes."""
        try:
            raw = msgspec.msgpack.encode(value)
        except UnicodeEncodeError:
            return None
        if len(raw) > self.max_bytes * MAX_INFLATION:
            return None
        body = VERSION + zlib.compress(raw, 1)
        return None if TAG_BYTES + len(body) > self.max_bytes else self._tag(key, body) + body

    def decode(self, key: bytes, data: bytes, kind: Any = Any) -> Any:
        """What was encoded for this key, if it is a `kind`. Raises Undecodable."""
        tag, body = data[:TAG_BYTES], data[TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(key, body)) or body[:1] != VERSION:
            raise Undecodable
        inflate = zlib.decompressobj()
        try:
            raw = inflate.decompress(body[1:], self.max_bytes * MAX_INFLATION + 1)
            if not inflate.eof:
                raise Undecodable
            return msgspec.msgpack.decode(raw, type=kind)
        except (zlib.error, ValueError, RecursionError) as error:
            raise Undecodable from error

    def encode_answer(self, key: bytes, chunks: Sequence[TokenChunk]) -> bytes | None:
        return self.encode(key, chunks)

    def decode_answer(self, key: bytes, data: bytes) -> tuple[TokenChunk, ...]:
        """Raises Undecodable."""
        chunks: tuple[TokenChunk, ...] = self.decode(key, data, tuple[TokenChunk, ...])
        return chunks

    def _tag(self, key: bytes, body: bytes) -> bytes:
        return hashlib.blake2b(key + body, key=self._secret, digest_size=TAG_BYTES).digest()
