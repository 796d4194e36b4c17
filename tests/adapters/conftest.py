"""A base model and adapters made of nothing but safetensors and numpy: small, valid, and easy to break."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adaptive_lora.adapters.base import BaseModelInfo, describe_base
from adaptive_lora.adapters.manifest import write_manifest

HIDDEN, INNER, RANK = 32, 48, 8
SHAPES = {"self_attn.q_proj": (HIDDEN, HIDDEN), "mlp.down_proj": (HIDDEN, INNER)}


def _modules() -> dict[str, tuple[int, int]]:
    return {f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in SHAPES.items()}


def _lora_weights(rank: int = RANK, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    weights = {}
    for module, (n_out, n_in) in _modules().items():
        key = f"base_model.model.{module}"
        weights[f"{key}.lora_A.weight"] = random.normal(size=(rank, n_in)).astype(np.float32)
        weights[f"{key}.lora_B.weight"] = random.normal(size=(n_out, rank)).astype(np.float32)
    return weights


def _peft_config(**changes: object) -> dict[str, object]:
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


def _write_base(folder: Path, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": HIDDEN}))
    weights = {
        f"{module}.weight": random.normal(size=shape).astype(np.float32)
        for module, shape in _modules().items()
    }
    weights["model.norm.weight"] = np.ones(HIDDEN, np.float32)
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture
def write_base() -> Callable[..., Path]:
    return _write_base


@pytest.fixture
def base_dir(tmp_path: Path) -> Path:
    return _write_base(tmp_path / "base")


@pytest.fixture
def base(base_dir: Path) -> BaseModelInfo:
    return describe_base("demo", base_dir)


@pytest.fixture
def lora_weights() -> Callable[..., dict[str, np.ndarray]]:
    return _lora_weights


@pytest.fixture
def peft_config() -> Callable[..., dict[str, object]]:
    return _peft_config


@pytest.fixture
def make_adapter(tmp_path: Path, base: BaseModelInfo) -> Callable[..., Path]:
    """Write an adapter that passes every check, but for what the arguments say."""

    def make(
        folder: str = "code",
        *,
        name: str | None = None,
        weights: dict[str, np.ndarray] | None = None,
        config: dict[str, object] | None = None,
        fingerprint: str | None = base.fingerprint,
        base_model: str = "demo",
    ) -> Path:
        path = tmp_path / "adapters" / folder
        path.mkdir(parents=True)
        save_file(weights or _lora_weights(), path / "adapter_model.safetensors")
        (path / "adapter_config.json").write_text(json.dumps(config or _peft_config()))
        write_manifest(
            path,
            name=name or folder,
            description="Writes code",
            examples=["Write a function"],
            base_model=base_model,
            base_fingerprint=fingerprint,
        )
        return path

    return make
