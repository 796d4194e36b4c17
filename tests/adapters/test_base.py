from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adaptive_lora.adapters.base import BaseModelInfo, base_fingerprint, describe_base
from adaptive_lora.errors import WrongBase


def test_fingerprint_is_the_content_not_the_place(tmp_path: Path, write_base: Callable[..., Path]) -> None:
    first, copy = write_base(tmp_path / "a"), write_base(tmp_path / "b")
    assert base_fingerprint(first) == base_fingerprint(copy)
    assert base_fingerprint(first) != base_fingerprint(write_base(tmp_path / "c", seed=1))


def test_fingerprint_ignores_who_wrote_the_config(base_dir: Path) -> None:
    before = base_fingerprint(base_dir)
    config = json.loads((base_dir / "config.json").read_text())
    (base_dir / "config.json").write_text(json.dumps(config | {"transformers_version": "9"}, indent=4))
    assert base_fingerprint(base_dir) == before
    (base_dir / "config.json").write_text(json.dumps(config | {"rope_theta": 9}))
    assert base_fingerprint(base_dir) != before


def test_fingerprint_shows_a_change_of_any_one_tensor(base_dir: Path) -> None:
    path = base_dir / "model.safetensors"
    before, weights = base_fingerprint(base_dir), load_file(path)
    weights["big"] = np.zeros((600, 600), np.float32)
    save_file(weights, path)
    seen = {before, base_fingerprint(base_dir)}
    for name in weights:
        save_file(weights | {name: weights[name] + 1}, path)
        seen.add(base_fingerprint(base_dir))
    assert len(seen) == 2 + len(weights)


def test_describes_the_linear_modules(base: BaseModelInfo) -> None:
    assert base.modules is not None
    assert base.modules["model.layers.1.mlp.down_proj"] == (32, 48)
    assert "model.norm" not in base.modules
    assert base.shapes_of("model.layers.7.mlp.down_proj") == ()


def test_finds_text_layers_behind_another_prefix() -> None:
    base = BaseModelInfo("vlm", None, {"language_model.model.layers.0.mlp.up_proj": (8, 4)})
    assert base.shapes_of("model.language_model.layers.0.mlp.up_proj") == ((8, 4),)


def test_packed_layers_exist_but_have_no_known_shape(tmp_path: Path, write_base: Callable[..., Path]) -> None:
    folder = write_base(tmp_path / "packed")
    save_file(
        {"model.layers.0.mlp.up_proj.qweight": np.zeros((4, 8), np.int32)}, folder / "model.safetensors"
    )
    assert describe_base("packed", folder).shapes_of("model.layers.0.mlp.up_proj") == (None,)


def test_without_files_only_the_name_is_known() -> None:
    assert describe_base("org/model") == BaseModelInfo("org/model", None, None)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_not_a_model_folder(base_dir: Path, missing: str) -> None:
    (base_dir / missing).unlink()
    with pytest.raises(WrongBase, match=r"model\.base_model"):
        describe_base("demo", base_dir)


def test_a_cut_download(base_dir: Path) -> None:
    path = base_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WrongBase, match="fetch it again"):
        base_fingerprint(base_dir)
