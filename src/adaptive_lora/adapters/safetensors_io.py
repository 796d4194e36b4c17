"""Reading and writing single tensors of a safetensors file, so that no more than one of them is in memory.

numpy has no bfloat16: a bfloat16 is the upper half of a float32.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from adaptive_lora.adapters.files import open_regular
from adaptive_lora.adapters.safetensors_header import (
    DTYPE_BYTES,
    MalformedSafetensors,
    TensorInfo,
    read_header,
)
from adaptive_lora.errors import UnsafeFile

_VIEWS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class TensorFile:
    """An open file of floating-point tensors, by name."""

    def __init__(self, file: BinaryIO, tensors: Mapping[str, TensorInfo]) -> None:
        self._file = file
        self.tensors = tensors

    def raw(self, name: str) -> bytes:
        """The tensor's bytes, as they stand in the file."""
        tensor = self.tensors[name]
        self._file.seek(tensor.begin)
        content = self._file.read(tensor.end - tensor.begin)
        if len(content) != tensor.end - tensor.begin:
            raise UnsafeFile(f"{name!r} is cut short: fetch the adapter again")
        return content

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor as float32, which holds every F32, F16 and BF16 exactly."""
        tensor = self.tensors[name]
        words = np.frombuffer(self.raw(name), _VIEWS[tensor.dtype]).reshape(tensor.shape)
        if tensor.dtype == "BF16":
            return (words.astype(np.uint32) << 16).view(np.float32)
        return words.astype(np.float32)


@contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """Open a file for reading. Raises UnsafeFile or UnsafeLink if it is not a safetensors file."""
    with open_regular(path) as file:
        try:
            header = read_header(file, os.fstat(file.fileno()).st_size)
        except MalformedSafetensors as error:
            raise UnsafeFile(
                f"{path.parent.name}/{path.name} is not a safetensors file: {error}; save the adapter again"
            ) from error
        yield TensorFile(file, {tensor.name: tensor for tensor in header.tensors})


class TensorWriter:
    """A file whose tensors were declared with their sizes, and are then written in any order, each once."""

    def __init__(self, file: BinaryIO, places: dict[str, tuple[int, int]]) -> None:
        """`places`: begin and length of each tensor, in bytes of the file."""
        self._file = file
        self._places = places

    def write(self, name: str, content: NDArray[np.float32] | bytes) -> None:
        """Write one tensor: an F32, or the bytes of any type."""
        data = content if isinstance(content, bytes) else content.astype("<f4", copy=False).tobytes()
        begin, n_bytes = self._places.pop(name)
        if len(data) != n_bytes:
            raise ValueError(f"{name} was declared with {n_bytes} bytes and has {len(data)}")
        self._file.seek(begin)
        self._file.write(data)

    @property
    def missing(self) -> list[str]:
        """What was declared and is not written yet."""
        return sorted(self._places)


@contextmanager
def write_tensors(path: Path, declared: Mapping[str, tuple[str, tuple[int, ...]]]) -> Iterator[TensorWriter]:
    """Create a file of tensors with the given dtypes and shapes; at the end of the block it is on the disk.

    The widest type lies first, then by name, as the library writes them: so each tensor is aligned. Raises
    ValueError if a tensor was not written.
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in sorted(declared, key=lambda name: (-DTYPE_BYTES[declared[name][0]], name)):
        dtype, shape = declared[name]
        end = position + DTYPE_BYTES[dtype] * math.prod(shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    start = 8 + len(header)
    places = {name: _place(entries[name]["data_offsets"], start) for name in declared}
    with path.open("xb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(start + position)
        writer = TensorWriter(file, places)
        yield writer
        if writer.missing:
            raise ValueError(f"not written: {', '.join(writer.missing)}")
        file.flush()
        os.fsync(file.fileno())


def _place(offsets: list[int], start: int) -> tuple[int, int]:
    begin, end = offsets
    return start + begin, end - begin
