"""What encryption promises: what comes out is what went in, all of it, in its place; or an error."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.backup import cipher
from adaptive_lora.backup.cipher import CHUNK_BYTES, Cipher, encrypted_size, read_key
from adaptive_lora.errors import HashMismatch, SettingsError

KEY = bytes(range(32))
ONE = Cipher(KEY)
SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 17]


def sealed(content: bytes, name: str = "objects/a") -> bytes:
    return b"".join(ONE.encrypt([content], name))


def opened(stored: bytes, name: str = "objects/a", *, key: bytes = KEY, piece: int = 1 << 20) -> bytes:
    pieces = (stored[i : i + piece] for i in range(0, len(stored), piece))
    return b"".join(Cipher(key).decrypt(pieces, name))


@pytest.mark.parametrize("size", SIZES)
def test_what_is_encrypted_is_decrypted_and_has_the_size_that_was_foretold(size: int) -> None:
    content = os.urandom(size)
    stored = sealed(content)
    assert opened(stored) == content
    assert len(stored) == encrypted_size(size)
    assert size < 16 or content[:16] not in stored


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 50))
def test_pieces_may_have_any_sizes(pieces: list[bytes], read: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cipher, "CHUNK_BYTES", 16)
        stored = b"".join(ONE.encrypt(pieces, "objects/a"))
        assert opened(stored, piece=read) == b"".join(pieces)


def test_every_changed_byte_and_every_cut_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cipher, "CHUNK_BYTES", 16)
    stored = sealed(os.urandom(40))
    for i in range(len(stored)):
        with pytest.raises(HashMismatch):
            opened(stored[:i] + bytes([stored[i] ^ 1]) + stored[i + 1 :])
        with pytest.raises(HashMismatch):
            opened(stored[:i])
    with pytest.raises(HashMismatch):
        opened(stored + b"x")


def test_chunks_that_change_places_or_leave_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cipher, "CHUNK_BYTES", 16)
    stored = sealed(os.urandom(64))
    start, chunk = 24, 32
    parts = [stored[i : i + chunk] for i in range(start, len(stored), chunk)]
    assert len(parts) == 4
    for others in ([1, 0, 2, 3], [0, 1, 3], [0, 1, 2], [1, 2, 3], [0, 1, 2, 3, 3]):
        with pytest.raises(HashMismatch):
            opened(stored[:start] + b"".join(parts[i] for i in others))


def test_another_objects_content_and_another_key_are_noticed() -> None:
    stored = sealed(b"secret")
    with pytest.raises(HashMismatch):
        opened(stored, "objects/b")
    with pytest.raises(HashMismatch):
        opened(stored, key=bytes(32))


def test_names_reveal_no_hash_and_depend_on_the_key() -> None:
    sha256 = "ab" * 32
    other = Cipher(bytes(32))
    assert re.fullmatch(r"[0-9a-f]{64}", ONE.name_of(sha256))
    assert len({ONE.name_of(sha256), other.name_of(sha256), sha256}) == 3
    assert ONE.check != other.check
    assert sealed(b"same") != sealed(b"same")


def test_a_key_file_holds_64_digits(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(KEY.hex() + "\n")
    assert read_key(path) == KEY
    for wrong in ("", "ab" * 31, "xy" * 32, "ab" * 33, "ä"):
        path.write_text(wrong)
        with pytest.raises(SettingsError) as caught:
            read_key(path)
        assert not wrong or wrong not in caught.value.message
    with pytest.raises(SettingsError, match="cannot be read"):
        read_key(tmp_path / "none")
