"""Base models and adapters made of nothing but safetensors and numpy: small, valid, and easy to break."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from adaptive_lora.adapters.base import BaseModelInfo
from adaptive_lora.adapters.manifest import write_manifest
from adaptive_lora.adapters.verify import verify_adapter
from adaptive_lora.types import AdapterVersion, Probe

HIDDEN, INNER, RANK = 32, 48, 8
SHAPES = {"self_attn.q_proj": (HIDDEN, HIDDEN), "mlp.down_proj": (HIDDEN, INNER)}


def base_modules() -> dict[str, tuple[int, int]]:
    return {f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in SHAPES.items()}


def lora_weights(rank: int = RANK, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    weights = {}
    for module, (n_out, n_in) in base_modules().items():
        key = f"base_model.model.{module}"
        weights[f"{key}.lora_A.weight"] = random.normal(size=(rank, n_in)).astype(np.float32)
        weights[f"{key}.lora_B.weight"] = random.normal(size=(n_out, rank)).astype(np.float32)
    return weights


def peft_config(**changes: object) -> dict[str, object]:
    """What PEFT 0.21 writes for a plain LoRA, with `changes`."""
    config: dict[str, object] = {
        "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": None,
        "base_model_name_or_path": None, "bias": "none", "corda_config": None, "ensure_weight_tying": False,
        "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "kasa_config": None, "layer_replication": None, "layers_pattern": None,
        "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 8, "lora_bias": False,
        "lora_dropout": 0.0,
        "lora_ga_config": None, "megatron_config": None, "megatron_core": "megatron.core",
        "modules_to_save": None,
        "monteclora_config": None, "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16,
        "r": RANK,
        "rank_pattern": {}, "revision": None, "target_modules": ["down_proj", "q_proj"],
        "target_parameters": None,
        "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_bdlora": None, "use_dora": False,
        "use_qalora": False, "use_rslora": False, "velora_config": None,
    }  # fmt: skip
    return config | changes


def write_base(folder: Path, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": HIDDEN}))
    weights = {
        f"{module}.weight": random.normal(size=shape).astype(np.float32)
        for module, shape in base_modules().items()
    }
    weights["model.norm.weight"] = np.ones(HIDDEN, np.float32)
    save_file(weights, folder / "model.safetensors")
    return folder


def write_adapter(
    path: Path,
    *,
    name: str | None = None,
    description: str = "Writes code",
    examples: Sequence[str] = ("Write a function",),
    probes: Sequence[Probe] = (),
    pinned: bool = False,
    weights: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    rank: int = RANK,
    config: Mapping[str, object] | None = None,
    base_model: str = "demo",
    base_fingerprint: str | None = None,
) -> Path:
    """Write an adapter that passes every check, but for what the arguments say."""
    path.mkdir(parents=True)
    save_file(dict(weights or lora_weights(rank, seed)), path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps(config or peft_config(r=rank)))
    write_manifest(
        path,
        name=name or path.name,
        description=description,
        examples=examples,
        probes=probes,
        pinned=pinned,
        base_model=base_model,
        base_fingerprint=base_fingerprint,
    )
    return path


def verified(path: Path, *, base_model: str = "demo", max_rank: int = 512) -> AdapterVersion:
    """The version in a folder that `write_adapter` wrote."""
    return verify_adapter(path, base=BaseModelInfo(base_model), max_rank=max_rank)
