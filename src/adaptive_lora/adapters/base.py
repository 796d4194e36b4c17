"""What the base model is, as far as an adapter must agree with it: name, fingerprint, and the shapes of its
modules."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adaptive_lora.adapters.origin import Origin, read_origin
from adaptive_lora.adapters.safetensors_header import Header, MalformedSafetensors, TensorInfo, read_header
from adaptive_lora.errors import WrongBase

SAMPLE_BYTES = 16_384
"""Read from the middle of every tensor for the fingerprint: 5 MB in all for an 8 B Llama."""

_WRITER_KEYS = ("transformers_version", "_name_or_path", "torch_dtype", "dtype")
"""Of config.json: who wrote it and how it is loaded, not what the model is."""

Shape = tuple[int, int]
"""(features out, features in) of a linear layer."""


@dataclass(frozen=True, slots=True)
class BaseModelInfo:
    """The base model to check adapters against. `None` where it is unknown: then that check cannot be
    made."""

    name: str
    """As configured: "demo", a Hugging Face id, or a local path."""
    fingerprint: str | None = None
    modules: Mapping[str, Shape | None] | None = None
    """Linear modules by path ("model.layers.0.mlp.up_proj"); None where a packed layer does not say its
    shape."""
    original: Origin | None = None
    """Of a quantised base: the model whose adapters it serves as well as its own."""

    def shapes_of(self, module: str) -> tuple[Shape | None, ...]:
        """Shapes that `module` may have; empty if the base has no such module.

        Checkpoints of multi-modal models prefix their text layers differently from the running model, so a
        path that is not found whole is looked up from its first "layers." on.
        """
        modules = self.modules or {}
        if module in modules:
            return (modules[module],)
        tail = _from_layers(module)
        return tuple(shape for path, shape in modules.items() if tail and _from_layers(path) == tail)


def describe_base(name: str, folder: Path | None = None, original: Origin | None = None) -> BaseModelInfo:
    """Describe the base `name` whose files are in `folder`; without local files only the name is known.

    `original` is what the operator says it was quantised from; else what the folder says. Raises WrongBase if
    the folder is not a model in safetensors format.
    """
    if folder is None:
        return BaseModelInfo(name, original=original)
    headers = _read_headers(folder)
    modules: dict[str, Shape | None] = {}
    for path, header in headers:
        for tensor in header.tensors:
            module, _, leaf = tensor.name.rpartition(".")
            if leaf == "weight" and len(tensor.shape) == 2:
                packed = tensor.dtype in ("U8", "I32")
                modules[module] = None if packed else (tensor.shape[0], tensor.shape[1])
            elif leaf in ("qweight", "weight_packed"):
                modules.setdefault(module, None)
            elif leaf == "weight_shape":
                modules[module] = _read_shape(path, tensor)
    return BaseModelInfo(name, _fingerprint(folder, headers), modules, original or read_origin(folder))


def base_fingerprint(base_dir: Path) -> str:
    """SHA-256 (hex) that changes whenever the base model is another one, or was trained further.

    Taken over config.json (without the keys that only say who wrote it) and, for each safetensors file in
    order of
    name: name, size, header, and 16 KiB from the middle of each tensor. So 16 GB need not be read, and a
    change of any one layer shows. It is a guard against mix-ups, not against someone who forges a base on
    purpose. Raises WrongBase if the folder is not a model in safetensors format.
    """
    return _fingerprint(base_dir, _read_headers(base_dir))


def _read_headers(folder: Path) -> list[tuple[Path, Header]]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise WrongBase(
            f"the base model folder {folder.name!r} holds no .safetensors file: point model.base_model at a "
            "folder with config.json and safetensors weights"
        )
    headers = []
    for path in files:
        try:
            with path.open("rb") as file:
                headers.append((path, read_header(file, path.stat().st_size)))
        except (OSError, MalformedSafetensors) as error:
            raise WrongBase(
                f"{path.name} of the base model cannot be read: {error}; fetch it again"
            ) from error
    return headers


def _read_shape(path: Path, tensor: TensorInfo) -> Shape | None:
    """Compressed-tensors writes a packed layer's shape, [out, in], beside it."""
    if tensor.dtype != "I64" or tensor.shape != (2,):
        return None
    with path.open("rb") as file:
        file.seek(tensor.begin)
        n_out, n_in = struct.unpack("<2q", file.read(16))
    return n_out, n_in


def _fingerprint(folder: Path, headers: list[tuple[Path, Header]]) -> str:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WrongBase(
            f"the base model folder {folder.name!r} has no readable config.json: point model.base_model at a "
            "complete Hugging Face model folder"
        ) from error
    if isinstance(config, dict):
        config = {key: value for key, value in config.items() if key not in _WRITER_KEYS}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, separators=(",", ":")).encode())
    for path, header in headers:
        digest.update(f"\0{path.name}\0{path.stat().st_size}\0".encode())
        digest.update(header.raw)
        with path.open("rb") as file:
            for tensor in header.tensors:
                middle = (tensor.begin + tensor.end - SAMPLE_BYTES) // 2
                file.seek(max(tensor.begin, middle))
                digest.update(file.read(min(SAMPLE_BYTES, tensor.end - tensor.begin)))
    return digest.hexdigest()


def _from_layers(path: str) -> str | None:
    found = re.search(r"(?:^|\.)(layers\..+)$", path)
    return found.group(1) if found else None
