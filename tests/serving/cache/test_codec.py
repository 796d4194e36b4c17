"""What was kept is what comes back, or nothing is."""

from __future__ import annotations

import math
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.serving.cache import codec as codec_module
from adaptive_lora.serving.cache.codec import TAG_BYTES, VERSION, Codec, Undecodable
from adaptive_lora.types import TokenChunk, TokenLogprob

KEY = b"k" * 32
SECRET = b"s" * 32
text = st.text(st.characters(exclude_categories=["Cs"]))
logprobs = st.floats(max_value=0, allow_nan=False)
chunks = st.builds(
    TokenChunk,
    st.integers(0, 15),
    text,
    st.integers(0, 9),
    st.integers(0, 9999),
    st.none()
    | st.lists(st.builds(TokenLogprob, text, logprobs, st.lists(st.tuples(text, logprobs)).map(tuple))).map(
        tuple
    ),
    st.sampled_from([None, "stop", "length"]),
)


@given(st.lists(chunks))
def test_answers_come_back_as_they_were(answer: list[TokenChunk]) -> None:
    codec = Codec(1 << 20)
    value = codec.encode_answer(KEY, answer)
    assert value is not None
    assert codec.decode_answer(KEY, value) == tuple(answer)


def test_minus_infinity_comes_back() -> None:
    answer = (TokenChunk(0, "a", 1, 1, (TokenLogprob("a", -math.inf, (("b", -math.inf),)),), "stop"),)
    codec = Codec(1 << 20)
    value = codec.encode_answer(KEY, answer)
    assert value is not None
    assert codec.decode_answer(KEY, value) == answer


def test_answers_are_compressed() -> None:
    answer = [TokenChunk(0, f" word{i % 7}", 1, 9) for i in range(200)]
    value = Codec(1 << 20).encode_answer(KEY, answer)
    assert value is not None
    assert len(value) < sum(len(chunk.text) for chunk in answer)


@given(st.data())
def test_any_damage_is_found(data: st.DataObject) -> None:
    codec = Codec(1 << 20)
    value = codec.encode_answer(KEY, [TokenChunk(0, "answer", 1, 3, None, "stop")])
    assert value is not None
    at = data.draw(st.integers(0, len(value) - 1))
    damaged = bytearray(value)
    damaged[at] ^= data.draw(st.integers(1, 255))
    for bad in (bytes(damaged), value[:at], value + b"x"):
        with pytest.raises(Undecodable):
            codec.decode_answer(KEY, bad)


@given(st.binary(max_size=200))
def test_whatever_lies_in_the_store_is_read_or_refused(data: bytes) -> None:
    with pytest.raises(Undecodable):
        Codec(1 << 20).decode_answer(KEY, data)


def test_a_value_belongs_to_its_key_and_secret() -> None:
    value = Codec(1 << 20, SECRET).encode_answer(KEY, [TokenChunk(0, "a", 1, 1, None, "stop")])
    assert value is not None
    for codec, key in (
        (Codec(1 << 20, SECRET), b"j" * 32),
        (Codec(1 << 20), KEY),
        (Codec(1 << 20, b"t" * 32), KEY),
    ):
        with pytest.raises(Undecodable):
            codec.decode_answer(key, value)


def forged(body: bytes) -> bytes:
    """What somebody can write who knows how it is done, where there is no secret."""
    return Codec(1024)._tag(KEY, body) + body


def test_another_version_or_another_kind_of_value_is_no_answer() -> None:
    packed = codec_module.msgspec.msgpack.encode("a text")
    for body in (b"\x02" + zlib.compress(packed), VERSION + zlib.compress(packed), VERSION + b"no zlib"):
        with pytest.raises(Undecodable):
            Codec(1024).decode_answer(KEY, forged(body))


def test_a_value_cannot_fill_the_memory() -> None:
    bomb = VERSION + zlib.compress(codec_module.msgspec.msgpack.encode("x" * (64 * 1024 + 1)))
    with pytest.raises(Undecodable):
        Codec(1024).decode(KEY, forged(bomb))


@pytest.mark.parametrize("n_chars", [1_000, 64 * 1024 - 3])
def test_what_is_within_the_bounds_is_kept(n_chars: int) -> None:
    """The second one is as long as may be before it is compressed."""
    codec = Codec(1024)
    value = codec.encode(KEY, "x" * n_chars)
    assert value is not None
    assert codec.decode(KEY, value) == "x" * n_chars


def test_what_is_too_large_is_not_kept() -> None:
    codec = Codec(1024)
    incompressible = zlib.compress(b"".join(bytes([i * i % 251, i % 256]) for i in range(9_000)), 9)
    assert len(incompressible) > 1024
    assert codec.encode(KEY, incompressible) is None
    assert codec.encode(KEY, "x" * 64 * 1024) is None, "before it is compressed"
    small = codec.encode(KEY, incompressible[:900])
    assert small is not None
    assert TAG_BYTES < len(small) <= 1024


def test_text_that_utf8_cannot_write_is_not_kept() -> None:
    assert Codec(1024).encode_answer(KEY, [TokenChunk(0, "\ud800", 1, 1, None, "stop")]) is None
