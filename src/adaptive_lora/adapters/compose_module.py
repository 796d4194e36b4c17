"""One linear module of a composition: read from the parts, merged, written."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from adaptive_lora.adapters import compose_math
from adaptive_lora.adapters.files import CONFIG_NAME, WEIGHTS_NAME, open_regular
from adaptive_lora.adapters.peft_config import PeftConfig, parse_peft_config
from adaptive_lora.adapters.safetensors_io import TensorFile, TensorWriter, open_tensors
from adaptive_lora.errors import WrongModules
from adaptive_lora.types import AdapterVersion

Method = Literal["cat", "ties", "dare_linear", "dare_ties"]
Side = Literal["A", "B"]

_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_A\.weight")


@dataclass(frozen=True, slots=True)
class Part:
    """An open adapter, and its weight in the sum."""

    version: AdapterVersion
    weight: float
    config: PeftConfig
    file: TensorFile
    modules: frozenset[str]

    def shape_of(self, module: str) -> tuple[int, int]:
        """(features out, features in) of the module."""
        tensors = self.file.tensors
        return tensors[key_of(module, "B")].shape[0], tensors[key_of(module, "A")].shape[1]

    def a(self, module: str) -> NDArray[np.float32]:
        return self.file.read(key_of(module, "A"))

    def b(self, module: str, weight: float = 1.0) -> NDArray[np.float32]:
        """B with the adapter's scaling and `weight` in it, rounded once."""
        factor = weight * self.config.scaling_of(module)
        return (self.file.read(key_of(module, "B")).astype(np.float64) * factor).astype(np.float32)


@contextmanager
def open_part(version: AdapterVersion, weight: float) -> Iterator[Part]:
    """Open the files of a verified adapter. Raises UnsafeFile, UnsafeLink."""
    with open_regular(version.path / CONFIG_NAME) as text:
        # Its rank was checked when it was verified.
        config = parse_peft_config(text.read(), where=f"{version.id}: {CONFIG_NAME}", max_rank=1 << 30)
    with open_tensors(version.path / WEIGHTS_NAME) as file:
        modules = frozenset(found["module"] for name in file.tensors if (found := _KEY.fullmatch(name)))
        yield Part(version, weight, config, file, modules)


class Module:
    """What becomes of one module. Ranks and types are known before anything is read."""

    def __init__(self, path: str, parts: Sequence[Part], max_rank: int, method: Method) -> None:
        """`parts` are those that change the module. Raises WrongModules if its shape differs among them."""
        shapes = {part.shape_of(path) for part in parts}
        if len(shapes) != 1:
            ids = ", ".join(part.version.id for part in parts)
            raise WrongModules(
                f"{path[:160]!r} has different shapes in {ids}: they were trained for different base models"
            )
        self.path = path
        self._parts = parts
        self._method = method
        (self._shape,) = shapes
        summed = sum(part.config.rank_of(path) for part in parts)
        self.is_exact = method == "cat" and summed <= max_rank
        """Whether it is concatenated, and nothing is reduced."""
        self.rank = summed if self.is_exact else min(max_rank, *self._shape)

    @property
    def declared(self) -> dict[str, tuple[str, tuple[int, int]]]:
        """Types and shapes of its tensors, by name."""
        n_out, n_in = self._shape
        return {
            key_of(self.path, "A"): (self._copied_type or "F32", (self.rank, n_in)),
            key_of(self.path, "B"): ("F32", (n_out, self.rank)),
        }

    def write(self, writer: TensorWriter, *, density: float, seed: int, measure: bool) -> tuple[float, float]:
        """Write A and B. Returns the squared Frobenius norms of the error, and of what was asked for; of an
        exact module both are 0 unless `measure`, which is asked where others are not exact."""
        if not self.is_exact:
            reduced = self._reduced(density, seed)
            writer.write(key_of(self.path, "A"), reduced.a)
            writer.write(key_of(self.path, "B"), reduced.b)
            return reduced.squared_error, reduced.squared_norm
        a, b = self._concatenated()
        copied = [part.file.raw(key_of(self.path, "A")) for part in self._parts if self._copied_type]
        writer.write(key_of(self.path, "A"), b"".join(copied) or a)
        writer.write(key_of(self.path, "B"), b)
        return 0.0, compose_math.squared_norm(a, b) if measure else 0.0

    def _reduced(self, density: float, seed: int) -> compose_math.Reduced:
        if self._method == "cat":
            a, b = self._concatenated()
            return compose_math.reduce_product(a.astype(np.float64), b.astype(np.float64), self.rank)
        factors = [
            compose_math.Factors(
                part.a(self.path), part.b(self.path), part.weight, _seed(seed, part.version.id, self.path)
            )
            for part in self._parts
        ]
        merged = compose_math.merge(factors, self._method, density)
        return compose_math.reduce_dense(merged, self.rank)

    def _concatenated(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The weighted sum as one product: A[summed rank, in], B[out, summed rank]."""
        return (
            np.concatenate([part.a(self.path) for part in self._parts]),
            np.concatenate([part.b(self.path, part.weight) for part in self._parts], axis=1),
        )

    @property
    def _copied_type(self) -> str | None:
        """Of A, where its bytes can be copied as they are: the parts have the same type."""
        types = {part.file.tensors[key_of(self.path, "A")].dtype for part in self._parts}
        return types.pop() if self.is_exact and len(types) == 1 else None


def key_of(module: str, side: Side) -> str:
    """The name of a tensor, as PEFT writes it."""
    return f"base_model.model.{module}.lora_{side}.weight"


def _seed(seed: int, version_id: str, module: str) -> int:
    """What DARE drops from a part depends neither on the other parts nor on the other modules."""
    digest = hashlib.blake2b(f"{seed}\0{version_id}\0{module}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
