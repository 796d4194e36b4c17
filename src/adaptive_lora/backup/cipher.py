"""Encryption of what a backup stores: AES-256-GCM in chunks, of any length, in constant memory.

    magic (8 bytes) | salt (16) | chunk | chunk | ...       each chunk 1 MiB, the last shorter, with its tag

Every object has a key of its own: HKDF-SHA-256 of the operator's key and the salt. A chunk's nonce is its
number and whether it is the last (the STREAM construction of Hoang et al. 2015, as in age), so that chunks
can be neither swapped nor cut off; and the object's name is authenticated, so that objects cannot be swapped.
"""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from adaptive_lora.errors import HashMismatch, SettingsError

MAGIC: Final = b"ALBACKUP"
SALT_BYTES: Final = 16
CHUNK_BYTES: Final = 1 << 20
TAG_BYTES: Final = 16
_HEADER_BYTES: Final = len(MAGIC) + SALT_BYTES
_KEY_HEX: Final = re.compile(r"[0-9a-fA-F]{64}")


def read_key(path: Path) -> bytes:
    """The 32 bytes that a key file holds as 64 hexadecimal digits. Raises SettingsError, without them."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SettingsError(f"the key file {str(path)!r} cannot be read: {reason}") from None
    if not _KEY_HEX.fullmatch(text):
        raise SettingsError(
            f"the key file {str(path)!r} must hold 64 hexadecimal digits: openssl rand -hex 32 > {path.name}"
        )
    return bytes.fromhex(text)


class Cipher:
    """What one key encrypts. Thread-safe."""

    def __init__(self, key: bytes) -> None:
        """`key` has 32 bytes."""
        self._key = key
        self._name_key = self._derived(b"", b"adaptive-lora backup: names")

    @property
    def check(self) -> str:
        """Tells keys apart and reveals none."""
        return self._derived(b"", b"adaptive-lora backup: check").hex()

    def name_of(self, sha256: str) -> str:
        """What an object is called whose content has this hash: whoever lists them learns no hash."""
        return hmac.new(self._name_key, sha256.encode(), "sha256").hexdigest()

    def encrypt(self, pieces: Iterable[bytes], name: str) -> Iterator[bytes]:
        """`pieces` may have any sizes."""
        salt = os.urandom(SALT_BYTES)
        yield MAGIC + salt
        gcm = self._content_key(salt)
        for number, (chunk, is_last) in enumerate(_chunks(pieces, CHUNK_BYTES)):
            yield gcm.encrypt(_nonce(number, is_last=is_last), chunk, name.encode())

    def decrypt(self, pieces: Iterable[bytes], name: str) -> Iterator[bytes]:
        """Raises HashMismatch unless it is what `encrypt` made of an object with that name, all of it."""
        damaged = HashMismatch(f"{name} is damaged: it is not what was written there")
        source = _Buffered(pieces)
        header = source.take(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES or not header.startswith(MAGIC):
            raise damaged
        gcm = self._content_key(header[len(MAGIC) :])
        for number, (chunk, is_last) in enumerate(_chunks(source, CHUNK_BYTES + TAG_BYTES)):
            try:
                yield gcm.decrypt(_nonce(number, is_last=is_last), chunk, name.encode())
            except (InvalidTag, ValueError):
                raise damaged from None

    def _content_key(self, salt: bytes) -> AESGCM:
        return AESGCM(self._derived(salt, b"adaptive-lora backup: content"))

    def _derived(self, salt: bytes, purpose: bytes) -> bytes:
        return HKDF(SHA256(), 32, salt or None, purpose).derive(self._key)


def encrypted_size(n_bytes: int) -> int:
    """Of `n_bytes` of plain text. An empty one has a chunk, too."""
    n_chunks = max(1, -(-n_bytes // CHUNK_BYTES))
    return _HEADER_BYTES + n_bytes + n_chunks * TAG_BYTES


class _Buffered:
    """Iterates over what `take` has left."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._left = b""

    def take(self, n_bytes: int) -> bytes:
        """Fewer only at the end."""
        while len(self._left) < n_bytes and (piece := next(self._pieces, None)) is not None:
            self._left += piece
        taken, self._left = self._left[:n_bytes], self._left[n_bytes:]
        return taken

    def __iter__(self) -> Iterator[bytes]:
        if self._left:
            yield self._left
        yield from self._pieces


def _chunks(pieces: Iterable[bytes], size: int) -> Iterator[tuple[bytes, bool]]:
    """The same bytes in chunks of `size`, and which is the last; at least one chunk."""
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        while len(buffer) > size:  # not "or equal": it may be the last
            yield bytes(buffer[:size]), False
            del buffer[:size]
    yield bytes(buffer), True


def _nonce(number: int, *, is_last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([is_last])
