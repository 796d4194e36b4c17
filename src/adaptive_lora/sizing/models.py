"""The shapes that memory follows from: of Llama-like decoders, by preset or from a `config.json`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptive_lora.errors import SettingsError


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder with gated MLP and grouped-query attention: Llama 2 and 3, Qwen 2 and 3, Mistral."""

    name: str
    """What `model.base_model` would be."""
    hidden_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied_embeddings: bool = False
    """`lm_head` is the embedding: held once."""
    qk_norm: bool = False
    """Qwen 3's norms of queries and keys."""
    qkv_bias: bool = False
    """Qwen 2's."""
    max_context: int | None = None
    """Tokens of a sequence that the model was made for: vLLM starts with no more. None: it does not say."""

    @property
    def linear_layers(self) -> Mapping[str, tuple[int, int]]:
        """(inputs, outputs) of the seven of one block."""
        q, kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        hidden, inner = self.hidden_size, self.intermediate_size
        return {
            "q_proj": (hidden, q),
            "k_proj": (hidden, kv),
            "v_proj": (hidden, kv),
            "o_proj": (q, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }

    @property
    def n_linear(self) -> int:
        """Weights of all blocks' linear layers: what quantisation makes smaller."""
        return self.n_layers * sum(inputs * outputs for inputs, outputs in self.linear_layers.values())

    @property
    def n_embedding(self) -> int:
        """Of the embedding and `lm_head`."""
        return (1 if self.tied_embeddings else 2) * self.vocab_size * self.hidden_size

    @property
    def n_small(self) -> int:
        """Norms and biases."""
        per_layer = 2 * self.hidden_size
        if self.qk_norm:
            per_layer += 2 * self.head_dim
        if self.qkv_bias:
            per_layer += (self.n_heads + 2 * self.n_kv_heads) * self.head_dim
        return self.n_layers * per_layer + self.hidden_size

    @property
    def n_parameters(self) -> int:
        return self.n_linear + self.n_embedding + self.n_small


_LLAMA_3 = {"head_dim": 128, "vocab_size": 128_256, "n_kv_heads": 8, "max_context": 8_192}
_LLAMA_31 = {**_LLAMA_3, "max_context": 131_072}
_QWEN_3 = {
    "head_dim": 128, "vocab_size": 151_936, "n_kv_heads": 8, "qk_norm": True, "max_context": 40_960,
}  # fmt: skip


def _shape(family: Mapping[str, Any], name: str, *sizes: int, **more: Any) -> ModelShape:
    keys = ("hidden_size", "n_layers", "n_heads", "intermediate_size")
    return ModelShape(name, **{**family, **dict(zip(keys, sizes, strict=True)), **more})


PRESETS = {
    "llama3-1b": _shape(
        _LLAMA_31, "meta-llama/Llama-3.2-1B", 2048, 16, 32, 8192, head_dim=64, tied_embeddings=True
    ),
    "llama3-3b": _shape(_LLAMA_31, "meta-llama/Llama-3.2-3B", 3072, 28, 24, 8192, tied_embeddings=True),
    "llama3-8b": _shape(_LLAMA_3, "meta-llama/Meta-Llama-3-8B", 4096, 32, 32, 14_336),
    "llama3-70b": _shape(_LLAMA_3, "meta-llama/Meta-Llama-3-70B", 8192, 80, 64, 28_672),
    "llama3-405b": _shape(_LLAMA_31, "meta-llama/Llama-3.1-405B", 16_384, 126, 128, 53_248),
    "qwen3-4b": _shape(_QWEN_3, "Qwen/Qwen3-4B", 2560, 36, 32, 9728, tied_embeddings=True),
    "qwen3-8b": _shape(_QWEN_3, "Qwen/Qwen3-8B", 4096, 36, 32, 12_288),
    "qwen3-14b": _shape(_QWEN_3, "Qwen/Qwen3-14B", 5120, 40, 40, 17_408),
    "qwen3-32b": _shape(_QWEN_3, "Qwen/Qwen3-32B", 5120, 64, 64, 25_600),
}
"""From the `config.json` of each on Hugging Face. A test holds their sums against the published counts."""

ALIASES = {
    "1b": "llama3-1b",
    "3b": "llama3-3b",
    "8b": "llama3-8b",
    "70b": "llama3-70b",
    "405b": "llama3-405b",
    "4b": "qwen3-4b",
    "14b": "qwen3-14b",
    "32b": "qwen3-32b",
}


def model_shape(name: str) -> ModelShape:
    """A preset, a folder with a `config.json`, or such a file.

    Raises SettingsError for anything else, and for what is no Llama-like decoder.
    """
    preset = PRESETS.get(ALIASES.get(name.lower(), name.lower()))
    if preset is not None:
        return preset
    path = Path(name)
    with contextlib.suppress(RuntimeError):  # ~ of nobody: then there is no such folder
        path = path.expanduser()
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        known = ", ".join((*ALIASES, *PRESETS))
        raise SettingsError(f"--model {name}: there is no such folder or config.json; presets are {known}")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file}: cannot be read as JSON: {error}") from error
    return shape_of(config, name=str(path if path.is_dir() else path.parent))


def shape_of(config: object, *, name: str) -> ModelShape:
    """From the content of a `config.json`. Raises SettingsError unless it is a dense, Llama-like decoder."""
    if not isinstance(config, dict):
        raise SettingsError(f"{name}: config.json is no object")
    kind = config.get("model_type")
    if kind not in ("llama", "mistral", "qwen2", "qwen3"):
        raise SettingsError(f"{name}: model_type {kind!r} is not one whose memory is known here")
    try:
        heads = int(config["num_attention_heads"])
        shape = ModelShape(
            name,
            hidden_size=int(config["hidden_size"]),
            n_layers=int(config["num_hidden_layers"]),
            n_heads=heads,
            n_kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            intermediate_size=int(config["intermediate_size"]),
            vocab_size=int(config["vocab_size"]),
            tied_embeddings=bool(config.get("tie_word_embeddings", False)),
            qk_norm=kind == "qwen3",
            qkv_bias=kind == "qwen2",
            max_context=_max_context(config),
        )
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise SettingsError(f"{name}: config.json lacks a size, or has a wrong one: {error!r}") from error
    sizes = (shape.hidden_size, shape.n_layers, shape.n_heads, shape.n_kv_heads, shape.head_dim)
    if min(*sizes, shape.intermediate_size, shape.vocab_size) < 1:
        raise SettingsError(f"{name}: config.json has a size below 1")
    return shape


def _max_context(config: Mapping[str, Any]) -> int | None:
    """As vLLM reads it: of RoPE's scalings, linear and dynamic make it longer, and all others have it in."""
    positions = config.get("max_position_embeddings")
    if positions is None:
        return None
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    is_scaled = rope.get("rope_type", rope.get("type")) in ("linear", "dynamic")
    return int(positions * (rope.get("factor") or 1)) if is_scaled else int(positions)
