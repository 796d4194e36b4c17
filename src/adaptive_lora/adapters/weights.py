"""`adapter_model.safetensors`: hash and finiteness in one pass over one open file, then names and shapes."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaptive_lora.adapters.base import BaseModelInfo
from adaptive_lora.adapters.files import open_regular
from adaptive_lora.adapters.peft_config import PeftConfig
from adaptive_lora.adapters.safetensors_header import Header, MalformedSafetensors, TensorInfo, read_header
from adaptive_lora.errors import NonFiniteWeights, UnsafeFile, UnsupportedAdapter, WrongModules

MAX_WEIGHTS_BYTES = 8 << 30
_CHUNK_BYTES = 1 << 20

_EXPONENTS = {"F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80), "F32": ("<u4", 0x7F800000)}
"""Unsigned view and exponent bits per dtype: all of them set means infinity or NaN (IEEE 754). Testing bits
covers bfloat16, which numpy does not know."""

_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True, slots=True)
class WeightsScan:
    """What one pass over the file found. Nothing is raised before the caller has compared the hash."""

    sha256: str
    size_bytes: int
    header: Header | None
    """None if the file is not safetensors; then `problem` says why."""
    problem: str | None
    not_finite: str | None
    """The first tensor that holds NaN or infinity."""


def scan_weights(path: Path) -> WeightsScan:
    """Read the whole file once, tensor by tensor, in constant memory. Raises UnsafeFile, UnsafeLink."""
    digest = hashlib.sha256()
    header, problem, not_finite = None, None, None
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_WEIGHTS_BYTES:
            raise UnsafeFile(
                f"{path.parent.name}/{path.name} has {size:,} bytes; at most {MAX_WEIGHTS_BYTES:,} are read"
            )
        try:
            header = read_header(file, size)
            digest.update(header.raw)
        except MalformedSafetensors as error:
            problem = str(error)
            file.seek(0)
        for tensor in header.tensors if header else ():
            left = tensor.end - tensor.begin
            while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                digest.update(chunk)
                left -= len(chunk)
                if not_finite is None and not _is_finite(chunk, tensor):
                    not_finite = tensor.name
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return WeightsScan(digest.hexdigest(), size, header, problem, not_finite)


def check_weights(scan: WeightsScan, config: PeftConfig, base: BaseModelInfo, *, where: str) -> int:
    """Check what `scan` found against the adapter's config and the base. Returns the largest rank.

    Raises UnsafeFile (not safetensors), UnsupportedAdapter (tensors that are not plain LoRA), WrongModules
    (the base has no such module, or its shape differs; halves that do not belong together), NonFiniteWeights.
    """
    if scan.header is None:
        raise UnsafeFile(f"{where} is not a safetensors file: {scan.problem}; save the adapter again")
    halves: dict[str, dict[str, TensorInfo]] = {}
    for tensor in scan.header.tensors:
        if not (found := _KEY.fullmatch(tensor.name)):
            raise UnsupportedAdapter(
                f"{where}: {tensor.name[:160]!r} is not a LoRA matrix of a linear layer; train with LoRA on "
                "linear layers only"
            )
        if tensor.dtype not in _EXPONENTS:
            raise UnsupportedAdapter(
                f"{where}: {tensor.name[:160]!r} is {tensor.dtype}; save the weights as F32, F16 or BF16"
            )
        halves.setdefault(found["module"], {})[found["side"]] = tensor
    if not halves:
        raise WrongModules(f"{where} holds no weights; save the adapter again")
    for module, pair in halves.items():
        _check_module(module, pair, config.rank_of(module), base, where)
    if scan.not_finite is not None:
        raise NonFiniteWeights(
            f"{where}: {scan.not_finite[:160]!r} holds NaN or infinity; the training diverged, use an "
            "earlier checkpoint"
        )
    return max(config.rank_of(module) for module in halves)


def _check_module(
    module: str, pair: dict[str, TensorInfo], rank: int, base: BaseModelInfo, where: str
) -> None:
    shown = module[:160]
    if len(pair) != 2:
        raise WrongModules(f"{where}: {shown!r} has only one of lora_A and lora_B; save the adapter again")
    a, b = pair["A"].shape, pair["B"].shape
    if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
        raise WrongModules(
            f"{where}: {shown!r} has shapes A {a} and B {b}, which do not fit rank {rank} of its config"
        )
    if base.modules is None:
        return
    shapes = base.shapes_of(module)
    if not shapes:
        raise WrongModules(
            f"{where}: the base model {base.name!r} has no linear module {shown!r}; was it trained for "
            "another base?"
        )
    if None not in shapes and (b[0], a[1]) not in shapes:
        raise WrongModules(
            f"{where}: {shown!r} maps {a[1]} features to {b[0]}, but in the base model {base.name!r} it has "
            f"the shape {shapes[0]}; was it trained for another base?"
        )


def _is_finite(chunk: bytes, tensor: TensorInfo) -> bool:
    """True also for dtypes that `check_weights` refuses anyway. A partial element at a chunk's end means that
    the file was cut while it was read; the hash shows that."""
    if tensor.dtype not in _EXPONENTS:
        return True
    view, exponent = _EXPONENTS[tensor.dtype]
    words = np.frombuffer(chunk, view, count=len(chunk) // np.dtype(view).itemsize)
    return not bool(((words & exponent) == exponent).any())
