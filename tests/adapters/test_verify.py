"""Every broken adapter is refused with the error that names its fault; a whole one passes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from adaptive_lora.adapters.base import BaseModelInfo, describe_base
from adaptive_lora.adapters.manifest import read_manifest, write_manifest
from adaptive_lora.adapters.verify import check_unchanged, verify_adapter
from adaptive_lora.errors import (
    AdapterError,
    HashMismatch,
    ManifestInvalid,
    NonFiniteWeights,
    RankTooLarge,
    UnsafeFile,
    UnsafeLink,
    UnsafeName,
    UnsupportedAdapter,
    WrongBase,
    WrongModules,
)

Make = Callable[..., Path]
Weights = Callable[..., dict[str, np.ndarray]]
Config = Callable[..., dict[str, object]]

Q_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def sign_again(folder: Path) -> None:
    """Make the manifest agree with the files once more, as an attacker or a careless author would."""
    old = read_manifest(folder)
    write_manifest(
        folder,
        name=old.name,
        description=old.description,
        examples=old.examples,
        base_model=old.base_model,
        base_fingerprint=old.base_fingerprint,
    )


def refusal(folder: Path, base: BaseModelInfo, expected: type[AdapterError], max_rank: int = 16) -> str:
    """Verify; the error must be exactly of the expected class, not one of its parents."""
    with pytest.raises(AdapterError) as caught:
        verify_adapter(folder, base=base, max_rank=max_rank)
    assert type(caught.value) is expected, caught.value
    return caught.value.message


def test_a_whole_adapter_passes(make_adapter: Make, base: BaseModelInfo) -> None:
    folder = make_adapter("code")
    version = verify_adapter(folder, base=base, max_rank=8)
    assert version.id == f"code@{read_manifest(folder).version}"
    assert (version.rank, version.path, version.examples) == (8, folder, ("Write a function",))
    listed = read_manifest(folder).files
    assert version.size_bytes == sum((folder / name).stat().st_size for name in listed)


def test_prose_may_be_added(make_adapter: Make, base: BaseModelInfo) -> None:
    folder = make_adapter()
    (folder / "README.md").write_text("a model card")
    verify_adapter(folder, base=base, max_rank=8)


# Wrong base


def test_wrong_base_by_fingerprint(make_adapter: Make, write_base: Make, tmp_path: Path) -> None:
    other = describe_base("demo", write_base(tmp_path / "other", seed=1))
    assert "another base model" in refusal(make_adapter(), other, WrongBase)


def test_wrong_base_by_name_where_no_fingerprint_is_known(make_adapter: Make, base: BaseModelInfo) -> None:
    folder = make_adapter(fingerprint=None, base_model="org/other")
    assert "'org/other'" in refusal(folder, base, WrongBase)
    assert "'demo-2'" in refusal(make_adapter("b"), BaseModelInfo("demo-2"), WrongBase)


def test_a_local_copy_of_the_base_counts_by_its_folder_name(make_adapter: Make) -> None:
    folder = make_adapter(fingerprint=None, base_model="org/Llama-9B")
    verify_adapter(folder, base=BaseModelInfo("/models/Llama-9B"), max_rank=8)
    refusal(folder, BaseModelInfo("/models/Llama-8B"), WrongBase)


def test_the_fingerprint_outweighs_the_name(make_adapter: Make, base: BaseModelInfo, base_dir: Path) -> None:
    verify_adapter(
        make_adapter(base_model="org/name"), base=describe_base(str(base_dir), base_dir), max_rank=8
    )


# Tampered, missing and unexpected files


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_tampered_file(make_adapter: Make, base: BaseModelInfo, name: str) -> None:
    folder = make_adapter()
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    assert f"code/{name} differs" in refusal(folder, base, HashMismatch)


def test_a_tampered_file_is_called_that_whatever_else_is_wrong(
    make_adapter: Make, base: BaseModelInfo
) -> None:
    folder = make_adapter()
    (folder / "adapter_model.safetensors").write_bytes(b"not safetensors at all")
    refusal(folder, base, HashMismatch)


def test_missing_file(make_adapter: Make, base: BaseModelInfo) -> None:
    folder = make_adapter()
    (folder / "adapter_config.json").unlink()
    refusal(folder, base, HashMismatch)


def test_a_file_that_the_manifest_does_not_list(make_adapter: Make, base: BaseModelInfo) -> None:
    folder = make_adapter()
    (folder / "tokenizer.json").write_text("{}")
    assert "not in the manifest" in refusal(folder, base, UnsafeFile)


def test_a_manifest_without_the_weights(make_adapter: Make, base: BaseModelInfo) -> None:
    folder = make_adapter()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["adapter_model.safetensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refusal(folder, base, ManifestInvalid)


# Unsafe files, links and names


@pytest.mark.parametrize(
    "name",
    [
        "adapter_model.bin",
        "adapter_model.pt",
        "w.pth",
        "w.pkl",
        "w.ckpt",
        "W.BIN",
        "run.py",
        "new.safetensors",
    ],
)
def test_weights_that_are_not_the_safetensors(make_adapter: Make, base: BaseModelInfo, name: str) -> None:
    folder = make_adapter()
    (folder / name).write_bytes(b"\x80\x04.")
    assert name in refusal(folder, base, UnsafeFile)


def test_pickled_weights_instead_of_safetensors(make_adapter: Make, base: BaseModelInfo) -> None:
    folder = make_adapter()
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "save_pretrained" in refusal(folder, base, UnsafeFile)


def test_pickle_under_the_name_of_the_weights(make_adapter: Make, base: BaseModelInfo) -> None:
    folder = make_adapter()
    torch.save({"a": torch.zeros(2)}, folder / "adapter_model.safetensors")
    sign_again(folder)
    assert "not a safetensors file" in refusal(folder, base, UnsafeFile)


def test_link_to_a_file(make_adapter: Make, base: BaseModelInfo, tmp_path: Path) -> None:
    folder = make_adapter()
    (folder / "adapter_model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (folder / "adapter_model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    refusal(folder, base, UnsafeLink)


def test_link_in_place_of_the_folder(make_adapter: Make, base: BaseModelInfo, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(make_adapter())
    refusal(tmp_path / "link", base, UnsafeLink)


def test_sub_folder_and_pipe(make_adapter: Make, base: BaseModelInfo) -> None:
    folder = make_adapter()
    (folder / "checkpoint-1").mkdir()
    refusal(folder, base, UnsafeFile)
    (folder / "checkpoint-1").rmdir()
    os.mkfifo(folder / "pipe.json")
    refusal(folder, base, UnsafeFile)


@pytest.mark.parametrize("change", [{"name": "../../etc"}, {"files": {"../adapter_config.json": "0" * 64}}])
def test_names_that_leave_the_folder(
    make_adapter: Make, base: BaseModelInfo, change: dict[str, object]
) -> None:
    folder = make_adapter()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | change))
    assert ".." in refusal(folder, base, UnsafeName)


@pytest.mark.parametrize("name", ["adapter_config.json", "tokenizer_config.json", "config.JSON"])
def test_auto_map(make_adapter: Make, base: BaseModelInfo, peft_config: Config, name: str) -> None:
    folder = make_adapter()
    (folder / name).write_text(json.dumps(peft_config(auto_map={"AutoModel": "evil.Model"})))
    sign_again(folder)
    assert "auto_map" in refusal(folder, base, UnsafeFile)


# Rank and PEFT options


def test_rank_too_large(make_adapter: Make, base: BaseModelInfo) -> None:
    message = refusal(make_adapter(), base, RankTooLarge, max_rank=4)
    assert "rank 8 exceeds the engine's 4" in message
    assert "max_lora_rank" in message


def test_rank_too_large_in_a_pattern(make_adapter: Make, base: BaseModelInfo, peft_config: Config) -> None:
    folder = make_adapter(config=peft_config(rank_pattern={"q_proj": 32}))
    refusal(folder, base, RankTooLarge)


def test_ranks_by_pattern(
    make_adapter: Make, base: BaseModelInfo, peft_config: Config, lora_weights: Weights
) -> None:
    small, large = lora_weights(rank=8), lora_weights(rank=12)
    mixed = {name: (large if "q_proj" in name else small)[name] for name in small}
    folder = make_adapter(weights=mixed, config=peft_config(rank_pattern={"self_attn.q_proj": 12}))
    assert verify_adapter(folder, base=base, max_rank=16).rank == 12


@pytest.mark.parametrize(
    "option",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"lora_bias": True},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [1]},
        {"alora_invocation_tokens": [1]},
        {"layer_replication": [[0, 1]]},
        {"target_parameters": ["experts"]},
        {"init_lora_weights": "pissa"},
        {"peft_type": "IA3"},
        {"peft_type": None},
        {"option_of_tomorrow": 1},
        {"rank_pattern": {"(a+)+$": 8}},
        {"rank_pattern": [8]},
        {"alpha_pattern": {"q_proj": float("nan")}},
        {"lora_alpha": None},
        {"lora_alpha": float("inf")},
        {"r": 0},
        {"r": True},
        {"r": "8"},
    ],
    ids=str,
)
def test_options_that_are_not_served(
    make_adapter: Make, base: BaseModelInfo, peft_config: Config, option: dict[str, object]
) -> None:
    message = refusal(make_adapter(config=peft_config(**option)), base, UnsupportedAdapter)
    named = next(iter(option))
    assert named in message


@pytest.mark.parametrize(
    "option", [{"use_rslora": True}, {"lora_alpha": 16.5}, {"init_lora_weights": "gaussian"}], ids=str
)
def test_options_that_are_served(
    make_adapter: Make, base: BaseModelInfo, peft_config: Config, option: dict[str, object]
) -> None:
    verify_adapter(make_adapter(config=peft_config(**option)), base=base, max_rank=8)


@pytest.mark.parametrize("text", ["[]", "7"])
def test_config_that_is_no_object(make_adapter: Make, base: BaseModelInfo, text: str) -> None:
    folder = make_adapter()
    (folder / "adapter_config.json").write_text(text)
    sign_again(folder)
    refusal(folder, base, UnsupportedAdapter)


# Weights


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_weights_that_are_not_finite(
    make_adapter: Make, base: BaseModelInfo, lora_weights: Weights, value: float, dtype: str
) -> None:
    folder = make_adapter()
    torch_type = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    weights = {name: torch.from_numpy(array).to(torch_type) for name, array in lora_weights().items()}
    save_torch(weights, folder / "adapter_model.safetensors")
    sign_again(folder)
    verify_adapter(folder, base=base, max_rank=8)
    weights[Q_A][-1, -1] = value
    save_torch(weights, folder / "adapter_model.safetensors")
    sign_again(folder)
    assert Q_A in refusal(folder, base, NonFiniteWeights)


def test_the_last_element_of_a_large_tensor_is_looked_at(
    make_adapter: Make, lora_weights: Weights, tmp_path: Path
) -> None:
    weights = lora_weights()
    weights[Q_A] = np.zeros((8, 100_003), np.float32)
    weights[Q_A][-1, -1] = np.nan
    refusal(make_adapter(weights=weights), BaseModelInfo("demo"), NonFiniteWeights)


def test_a_module_that_the_base_does_not_have(
    make_adapter: Make, base: BaseModelInfo, lora_weights: Weights
) -> None:
    weights = {name.replace("layers.1", "layers.2"): array for name, array in lora_weights().items()}
    assert "layers.2" in refusal(make_adapter(weights=weights), base, WrongModules)


def test_shapes_of_another_base(make_adapter: Make, base: BaseModelInfo, lora_weights: Weights) -> None:
    weights = lora_weights()
    weights[Q_A] = np.zeros((8, 64), np.float32)
    message = refusal(make_adapter(weights=weights), base, WrongModules)
    assert "maps 64 features to 32" in message


def test_shapes_of_another_rank(make_adapter: Make, base: BaseModelInfo, lora_weights: Weights) -> None:
    assert "rank 8" in refusal(make_adapter(weights=lora_weights(rank=4)), base, WrongModules)


def test_half_of_a_pair(make_adapter: Make, base: BaseModelInfo, lora_weights: Weights) -> None:
    weights = lora_weights()
    del weights[Q_A]
    assert "only one of" in refusal(make_adapter(weights=weights), base, WrongModules)


def test_no_weights(make_adapter: Make, base: BaseModelInfo) -> None:
    folder = make_adapter()
    save_file({}, folder / "adapter_model.safetensors")
    sign_again(folder)
    refusal(folder, base, WrongModules)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("base_model.model.model.embed_tokens.lora_embedding_A", np.float32),
        ("model.layers.0.self_attn.q_proj.weight", np.float32),
        (Q_A, np.int8),
        (Q_A, np.float64),
    ],
)
def test_tensors_that_are_not_plain_lora(
    make_adapter: Make, base: BaseModelInfo, lora_weights: Weights, name: str, dtype: type
) -> None:
    weights = lora_weights()
    weights[name] = np.zeros((8, 32), dtype)
    refusal(make_adapter(weights=weights), base, UnsupportedAdapter)


# After verification


def test_check_unchanged(make_adapter: Make, base: BaseModelInfo, lora_weights: Weights) -> None:
    folder = make_adapter()
    version = verify_adapter(folder, base=base, max_rank=8)
    check_unchanged(version)
    save_file(lora_weights(seed=1), folder / "adapter_model.safetensors")
    with pytest.raises(HashMismatch, match="differs"):
        check_unchanged(version)
    sign_again(folder)
    with pytest.raises(HashMismatch, match="changed since"):
        check_unchanged(version)
