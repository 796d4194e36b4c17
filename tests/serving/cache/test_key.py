"""Two requests have one key if, and only if, they are the same."""

from __future__ import annotations

import struct
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.serving.cache.key import KeyMaker, ModelIdentity, encode_value
from adaptive_lora.serving.cache.salt import TenantSalts
from adaptive_lora.types import ChatMessage, GenerateRequest, SamplingConfig

text = st.text(st.characters())
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=12,
)


def decode(data: bytes) -> Any:
    """The inverse of `encode_value`. That it exists is the proof that no two values have one encoding."""

    def read(at: int) -> tuple[Any, int]:
        kind = data[at : at + 1]
        at += 1
        if kind in b"ntf":
            return {b"n": None, b"t": True, b"f": False}[kind], at
        if kind == b"d":
            return struct.unpack(">d", data[at : at + 8])[0], at + 8
        (size,) = struct.unpack(">Q", data[at : at + 8])
        at += 8
        if kind in b"isb":
            body = data[at : at + size]
            read_body = {b"i": int, b"s": lambda b: b.decode("utf-8", "surrogatepass"), b"b": bytes}[kind]
            return read_body(body), at + size
        items = []
        for _ in range(size * (2 if kind == b"m" else 1)):
            item, at = read(at)
            items.append(item)
        return (dict(zip(items[::2], items[1::2], strict=True)) if kind == b"m" else items), at

    value, end = read(0)
    assert end == len(data)
    return value


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types all the way down: 1, 1.0 and True differ; so do orders of keys."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[k], right[k]) for k in left)
    if isinstance(left, float):
        return struct.pack(">d", left) == struct.pack(">d", right)
    return bool(left == right)


@given(values)
def test_the_encoding_can_be_read_back(value: Any) -> None:
    assert same(decode(encode_value(value)), value)


@given(values, values)
def test_other_values_have_other_encodings(one: Any, other: Any) -> None:
    assert (encode_value(one) == encode_value(other)) == same(one, other)


@given(text, text, text, text)
def test_fields_do_not_run_into_each_other(a: str, b: str, c: str, d: str) -> None:
    keys = KeyMaker()
    assert (keys.digest(a, b) == keys.digest(c, d)) == ((a, b) == (c, d))


@pytest.mark.parametrize("value", [object(), {1: 2}, {"a": {3}}])
def test_what_has_no_encoding_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        encode_value(value)


MODEL = ModelIdentity("base", "weights", "text", (("dtype", "auto"),))
REQUEST = GenerateRequest("r1", "hello", SamplingConfig(), "code@3f9c2a000001")
OTHER: dict[str, Any] = {
    "max_tokens": 255,
    "min_tokens": 1,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 3,
    "min_p": 0.1,
    "n": 2,
    "seed": 0,
    "stop": ("\n",),
    "logprobs": 0,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "repetition_penalty": 1.1,
    "ignore_eos": True,
    "json_schema": {},
}
"""Another value than the default for each field."""


def key(
    request: GenerateRequest = REQUEST, *, model: ModelIdentity = MODEL, tenant: str = "acme", **secret: Any
) -> bytes:
    return KeyMaker(**secret).answer(model, tenant, request)


@pytest.mark.parametrize("field", [field.name for field in fields(SamplingConfig)])
def test_every_sampling_parameter_is_part_of_the_key(field: str) -> None:
    other = replace(REQUEST, sampling=replace(REQUEST.sampling, **{field: OTHER[field]}))
    assert key(other) != key()


@pytest.mark.parametrize("field", [field.name for field in fields(ModelIdentity)])
def test_everything_about_the_model_is_part_of_the_key(field: str) -> None:
    other: Any = (("dtype", "float16"),) if field == "options" else "other"
    assert key(model=replace(MODEL, **{field: other})) != key()


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, adapter_id=None),
        replace(REQUEST, adapter_id="code@3f9c2a000002"),
        replace(REQUEST, prompt="hello "),
        replace(REQUEST, prompt=(ChatMessage("user", "hello"),)),
        replace(REQUEST, prompt=(ChatMessage("system", "hello"),)),
        replace(REQUEST, prompt=(ChatMessage("user", "hel"), ChatMessage("user", "lo"))),
    ],
)
def test_adapter_version_prompt_and_roles_are_part_of_the_key(other: GenerateRequest) -> None:
    assert key(other) != key()
    turn = (ChatMessage("user", "hello"),)
    if isinstance(other.prompt, tuple) and other.prompt != turn:
        assert key(other) != key(replace(REQUEST, prompt=turn))


def test_whoever_adds_a_field_to_requests_decides_whether_answers_depend_on_it() -> None:
    """Then it belongs into `KeyMaker.answer`, and here into the first set."""
    matters, does_not = {"prompt", "sampling", "adapter_id"}, {"request_id", "cache_salt"}
    assert {field.name for field in fields(GenerateRequest)} == matters | does_not


def test_the_order_of_a_schema_is_part_of_the_key_since_the_grammar_follows_it() -> None:
    one, other = (
        replace(REQUEST, sampling=SamplingConfig(json_schema={"properties": properties}))
        for properties in ({"a": {}, "b": {}}, {"b": {}, "a": {}})
    )
    assert key(one) != key(other)


def test_tenants_do_not_share_keys() -> None:
    assert key(tenant="acme") != key(tenant="other")


def test_the_requests_own_id_and_salt_are_no_part_of_the_key() -> None:
    assert key(replace(REQUEST, request_id="r2", cache_salt="f" * 32)) == key()


def test_a_secret_makes_other_keys_and_the_same_secret_the_same() -> None:
    one, other = b"1" * 32, b"2" * 32
    assert len({key(), key(secret=one), key(secret=other)}) == 3
    assert key(secret=one) == key(secret=one)


@given(text, text)
def test_salts_are_of_one_length_and_differ_by_tenant(one: str, other: str) -> None:
    salts = TenantSalts(b"s" * 32)
    assert len(salts.of(one)) == 32
    assert set(salts.of(one)) <= set("0123456789abcdef")
    assert (salts.of(one) == salts.of(other)) == (one == other)


def test_gateways_share_salts_if_they_share_the_secret() -> None:
    assert TenantSalts(b"s" * 32).of("acme") == TenantSalts(b"s" * 32).of("acme")
    assert TenantSalts(b"t" * 32).of("acme") != TenantSalts(b"s" * 32).of("acme")
    assert TenantSalts().of("acme") != TenantSalts().of("acme"), "without one, each process has its own"
