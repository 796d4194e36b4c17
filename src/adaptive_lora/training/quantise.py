"""Write a quantised copy of a Llama-like base model, in the compressed-tensors format that vLLM reads.

Round to nearest, without calibration data: each output channel (or group of its inputs) is scaled so that
its largest weight becomes the largest integer. Quantised are the linear layers of the transformer blocks;
embeddings, norms and lm_head stay as they are.
Format: https://github.com/vllm-project/compressed-tensors
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from adaptive_lora.adapters.base import base_fingerprint
from adaptive_lora.adapters.origin import ORIGIN_NAME, Origin, write_origin
from adaptive_lora.errors import SettingsError, Unsupported

GROUP_SIZE = 32
"""Inputs of one channel that share a scale in w4a16-int4. The bf16 scales cost half a bit a weight."""

INDEX_NAME = "model.safetensors.index.json"

_LINEAR = re.compile(r"(?:.+\.)?layers\.\d+\.(?!.*experts).+_proj\.weight")
_COPIED = re.compile(r".+\.(?:json|jinja|txt|model|tiktoken)|(?:LICENSE|NOTICE|USE_POLICY).*")
"""Beside the weights: configuration, tokenizer, chat template, terms of use. No code, no other weights."""

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Scheme:
    """A way to quantise, and how compressed-tensors describes it in config.json."""

    format: str
    weights: Mapping[str, Any]
    input_activations: Mapping[str, Any] | None
    quantise: Callable[[torch.Tensor], Tensors]
    """float32[out, in] to the tensors that stand for it, by the last part of their names."""


@dataclass(frozen=True)
class QuantiseReport:
    """What was written; bytes are those of the weight files."""

    scheme: str
    n_linear: int
    bytes_before: int
    bytes_after: int


def quantise_base(
    base: Path,
    output: Path,
    scheme: str,
    *,
    name: str,
    progress: Callable[[str], None] = lambda line: None,
) -> QuantiseReport:
    """Write a copy of the model folder `base`, quantised by `SCHEMES[scheme]`, to the new folder `output`.

    `name` is what the manifests of its adapters call the original; it goes into quantised_from.json with the
    original's fingerprint, so that they are served on the copy. One weights file is in memory at a time;
    `output` appears when it is whole. Raises SettingsError for a folder that is in the way, WrongBase for one
    that is no model, Unsupported for a model that is quantised already or whose layers are not Llama-like.
    """
    if output.exists():
        raise SettingsError(f"{output} exists: choose a new folder, or remove it")
    origin = Origin(name, base_fingerprint(base), scheme)
    config = json.loads((base / "config.json").read_bytes())
    if "quantization_config" in config:
        raise Unsupported(f"{base.name} is quantised already: start from the original")
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        files: dict[str, list[str]] = {}
        n_linear = 0
        for path in _weights(base):
            progress(path.name)
            tensors, n_quantised = _quantise_file(path, SCHEMES[scheme])
            n_linear += n_quantised
            files[path.name] = list(tensors)
            save_file(tensors, partial / path.name, metadata={"format": "pt"})
            (partial / path.name).chmod(0o644)  # the library's files are their owner's alone
        if not n_linear:
            raise Unsupported(
                f"{base.name} has no weights named layers.N.(...)_proj.weight: it is not Llama-like"
            )
        _copy_others(base, partial)
        _write_json(partial / "config.json", config | {"quantization_config": _described(SCHEMES[scheme])})
        if len(files) > 1:
            weight_map = {tensor: file for file, tensors in files.items() for tensor in tensors}
            _write_json(partial / INDEX_NAME, {"metadata": {}, "weight_map": weight_map})
        write_origin(partial, origin)
        partial.rename(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return QuantiseReport(scheme, n_linear, _size(base), _size(output))


def _quantise_file(path: Path, scheme: Scheme) -> tuple[Tensors, int]:
    """All tensors of a file, the linear layers' quantised; and how many those are."""
    tensors: Tensors = {}
    n_quantised = 0
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            tensor = file.get_tensor(name)
            if "experts" in name:
                raise Unsupported(
                    "mixtures of experts are not quantised here: use a checkpoint made by llm-compressor"
                )
            if not _LINEAR.fullmatch(name) or tensor.dim() != 2:
                tensors[name] = tensor
                continue
            if not tensor.isfinite().all():
                raise Unsupported(f"{name} holds NaN or infinity: the model is damaged")
            module = name.removesuffix(".weight")
            tensors |= {f"{module}.{part}": value for part, value in scheme.quantise(tensor.float()).items()}
            n_quantised += 1
    return tensors, n_quantised


def _int8_channels(weight: torch.Tensor) -> Tensors:
    """weight int8[out, in], weight_scale float32[out, 1]; their product is the weight."""
    scale = _scale(weight, 127)
    return {"weight": (weight / scale).round().to(torch.int8), "weight_scale": scale}


def _int4_groups(weight: torch.Tensor) -> Tensors:
    """weight_packed int32[out, in / 8], eight integers each, lowest bits first, offset by 8; weight_scale
    bfloat16[out, in / GROUP_SIZE]; weight_shape int64[2]."""
    n_out, n_in = weight.shape
    if n_in % GROUP_SIZE:
        raise Unsupported(f"a layer has {n_in} inputs, not a multiple of {GROUP_SIZE}: use w8a8-int8")
    groups = weight.view(n_out, n_in // GROUP_SIZE, GROUP_SIZE)
    scale = _scale(groups, 7).bfloat16()
    integers = (groups / scale.float()).round().clamp(-8, 7).to(torch.int64) + 8
    shifted = integers.view(n_out, n_in // 8, 8) << torch.arange(0, 32, 4)
    return {
        "weight_packed": shifted.sum(dim=-1).to(torch.int32),  # wraps above 2**31, as two's complement does
        "weight_scale": scale.squeeze(-1),
        "weight_shape": torch.tensor([n_out, n_in]),
    }


def _scale(weight: torch.Tensor, largest: int) -> torch.Tensor:
    """By the last dimension, which is kept with size 1. All zeros are scaled by 1."""
    scale = weight.abs().amax(dim=-1, keepdim=True) / largest
    return torch.where(scale > 0, scale, torch.ones_like(scale))


_INTEGERS = {"type": "int", "symmetric": True}

SCHEMES: Mapping[str, Scheme] = {
    "w8a8-int8": Scheme(
        format="int-quantized",
        weights=_INTEGERS | {"num_bits": 8, "strategy": "channel", "dynamic": False},
        input_activations=_INTEGERS | {"num_bits": 8, "strategy": "token", "dynamic": True},
        quantise=_int8_channels,
    ),
    "w4a16-int4": Scheme(
        format="pack-quantized",
        weights=_INTEGERS | {"num_bits": 4, "strategy": "group", "group_size": GROUP_SIZE, "dynamic": False},
        input_activations=None,
        quantise=_int4_groups,
    ),
}
"""By name: bits of weights and of activations. w8a8 rounds each token's activations while it runs."""


def _described(scheme: Scheme) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "format": scheme.format,
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": dict(scheme.weights),
                "input_activations": scheme.input_activations and dict(scheme.input_activations),
                "output_activations": None,
            }
        },
        "ignore": ["lm_head"],
    }


def _copy_others(base: Path, output: Path) -> None:
    for path in base.iterdir():
        if path.name not in (INDEX_NAME, ORIGIN_NAME) and path.is_file() and _COPIED.fullmatch(path.name):
            shutil.copyfile(path, output / path.name)


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _weights(folder))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
