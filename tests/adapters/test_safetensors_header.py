"""Held against the safetensors library: what it writes is read alike, what it refuses is refused."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from adaptive_lora.adapters.safetensors_header import MalformedSafetensors, read_header

shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
dtypes = st.sampled_from([np.float32, np.float16, np.int8, np.int64, np.bool_])


@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda name: name != "__metadata__"), st.tuples(shapes, dtypes)
    )
)
def test_reads_what_the_library_writes(spec: dict[str, tuple[tuple[int, ...], Any]]) -> None:
    content = save({name: np.zeros(shape, dtype) for name, (shape, dtype) in spec.items()})
    header = read_header(io.BytesIO(content), len(content))
    assert {tensor.name: tensor.shape for tensor in header.tensors} == {
        n: shape for n, (shape, _) in spec.items()
    }
    assert content.startswith(header.raw)


def encode(entries: object, data: bytes = b"\0" * 8) -> bytes:
    text = entries.encode() if isinstance(entries, str) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape or [(end - begin) // 4], "data_offsets": [begin, end]}


BROKEN = {
    "empty": b"",
    "short prefix": b"\1\0",
    "length past the end": (1 << 40).to_bytes(8, "little") + b"{}",
    "not JSON": encode("{nope"),
    "a list": encode([]),
    "entry is no object": encode({"a": 1}),
    "cut short": encode({"a": entry(0, 8)}, b"\0" * 7),
    "trailing bytes": encode({"a": entry(0, 8)}, b"\0" * 9),
    "hole": encode({"a": entry(4, 8)}),
    "overlap": encode({"a": entry(0, 8), "b": entry(4, 8)}),
    "size differs from shape": encode({"a": entry(0, 8, [3])}),
    "backwards": encode({"a": entry(8, 0, [2])}),
    "negative": encode({"a": entry(-4, 8, [3])}),
    "no shape": encode({"a": {"dtype": "F32", "data_offsets": [0, 8]}}),
}


@pytest.mark.parametrize("case", BROKEN)
def test_refuses_what_the_library_refuses(case: str) -> None:
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(BROKEN[case])
    with pytest.raises(MalformedSafetensors):
        read_header(io.BytesIO(BROKEN[case]), len(BROKEN[case]))


def test_refuses_a_name_twice() -> None:
    one = json.dumps(entry(0, 8))
    content = encode(f'{{"a": {one}, "a": {one}}}')
    with pytest.raises(MalformedSafetensors):
        read_header(io.BytesIO(content), len(content))
