"""The header of a safetensors file: an 8-byte little-endian length, that many bytes of JSON, then the
tensors' bytes.

Read here rather than through the `safetensors` library because the checks need byte offsets (to hash and
test a file in one pass over one open descriptor, and to sample a 16 GB base without reading it) and dtypes
that numpy lacks.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

DTYPE_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
"""Bytes per element. Sub-byte types (F4, F6) are not listed: their sizes are not checked."""

MAX_HEADER_BYTES = 100_000_000
"""The library's own limit."""


class MalformedSafetensors(ValueError):
    """Not a safetensors file. The caller says which file and what to do."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """`begin` and `end` are byte offsets into the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    raw: bytes
    """Length prefix and JSON, as they stand in the file."""
    tensors: tuple[TensorInfo, ...]
    """In file order; they cover the file from the header's end to its own end, without holes or overlaps."""


def read_header(file: BinaryIO, file_bytes: int) -> Header:
    """Parse and validate the header of `file`, which is read from its current position (its start).

    Raises MalformedSafetensors unless names are unique and offsets, shapes, dtypes and `file_bytes` agree
    exactly.
    """
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little") if len(prefix) == 8 else -1
    if not 2 <= length <= min(MAX_HEADER_BYTES, file_bytes - 8):
        raise MalformedSafetensors("its header length does not fit the file")
    text = file.read(length)
    try:
        entries = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise MalformedSafetensors("its header is not valid JSON") from None
    if not isinstance(entries, dict):
        raise MalformedSafetensors("its header is not a JSON object")
    entries.pop("__metadata__", None)
    start = 8 + length
    tensors = sorted(
        (_tensor(name, entry, start) for name, entry in entries.items()), key=lambda t: (t.begin, t.end)
    )
    position = start
    for tensor in tensors:
        if tensor.begin != position:
            raise MalformedSafetensors(f"tensor {tensor.name!r} does not start where the one before it ends")
        position = tensor.end
    if position != file_bytes:
        raise MalformedSafetensors("its tensors do not fill the file exactly; it may be cut short")
    return Header(prefix + text, tuple(tensors))


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("duplicate key")
    return entries


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _tensor(name: str, entry: object, start: int) -> TensorInfo:
    if not isinstance(entry, dict):
        raise MalformedSafetensors(f"the entry of tensor {name!r} is not an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if (
        not isinstance(dtype, str)
        or not isinstance(shape, list)
        or not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(map(_is_count, [*shape, *offsets]))
        or offsets[1] < offsets[0]
    ):
        raise MalformedSafetensors(f"the entry of tensor {name!r} is malformed")
    begin, end = offsets
    if dtype in DTYPE_BYTES and math.prod(shape) * DTYPE_BYTES[dtype] != end - begin:
        raise MalformedSafetensors(f"the size of tensor {name!r} differs from its shape and dtype")
    return TensorInfo(name, dtype, tuple(shape), start + begin, start + end)
