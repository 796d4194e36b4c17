"""The quantiser: its arithmetic beside compressed-tensors' own, its files, and whose adapters they serve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from adaptive_lora.adapters.base import base_fingerprint, describe_base  # noqa: E402
from adaptive_lora.adapters.manifest import write_manifest  # noqa: E402
from adaptive_lora.adapters.verify import verify_adapter  # noqa: E402
from adaptive_lora.engine.random_models import make_adapters, make_model  # noqa: E402
from adaptive_lora.errors import SettingsError, Unsupported, WrongBase  # noqa: E402
from adaptive_lora.training.quantise import GROUP_SIZE, SCHEMES, quantise_base  # noqa: E402


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("bases") / "original", dtype="bfloat16")


def test_int8_is_the_nearest_multiple_of_the_channels_scale() -> None:
    weight = torch.randn(6, 64)
    weight[2] = 0
    parts = SCHEMES["w8a8-int8"].quantise(weight)
    integers, scale = parts["weight"], parts["weight_scale"]
    assert (integers.dtype, scale.shape) == (torch.int8, (6, 1))
    assert integers.abs().amax(dim=1).tolist() == [127, 127, 0, 127, 127, 127]
    assert ((integers * scale - weight).abs() <= scale / 2 + 1e-7).all()


def test_int4_is_what_compressed_tensors_unpacks() -> None:
    compressors = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    weight = torch.randn(6, 4 * GROUP_SIZE)
    parts = SCHEMES["w4a16-int4"].quantise(weight)
    shape = torch.Size(parts["weight_shape"].tolist())
    assert shape == weight.shape
    integers = compressors.unpack_from_int32(parts["weight_packed"], 4, shape).float()
    scale = parts["weight_scale"].float().repeat_interleave(GROUP_SIZE, dim=1)
    assert (integers.min(), integers.max()) >= (-8, 7)
    # Half a step, and what rounding the scale itself to bf16 adds at seven steps.
    assert ((integers * scale - weight).abs() <= scale * (0.5 + 7 / 256)).all()


def test_int4_needs_whole_groups() -> None:
    with pytest.raises(Unsupported, match="w8a8-int8"):
        SCHEMES["w4a16-int4"].quantise(torch.randn(4, GROUP_SIZE + 8))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_copy_is_smaller_and_whole(original: Path, tmp_path: Path, scheme: str) -> None:
    (original / "modeling_custom.py").write_text("import os")
    report = quantise_base(original, tmp_path / "copy", scheme, name="org/original")
    assert report.n_linear == 14
    assert report.bytes_after < report.bytes_before
    copied = {path.name for path in (tmp_path / "copy").iterdir()}
    assert copied == {path.name for path in original.iterdir()} - {"modeling_custom.py"} | {
        "quantised_from.json"
    }
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    before, after = (
        load_file(original / "model.safetensors"),
        load_file(tmp_path / "copy" / "model.safetensors"),
    )
    kept = [name for name in before if "_proj" not in name]
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"} <= set(kept)
    assert all(torch.equal(before[name], after[name]) for name in kept)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_adapters_of_the_original_are_adapters_of_the_copy(
    original: Path, tmp_path: Path, scheme: str
) -> None:
    (adapter,) = make_adapters(tmp_path, 1, 8, base=original)
    fingerprint = base_fingerprint(original)
    write_manifest(
        adapter, name="code", description="x", examples=[], base_model="m", base_fingerprint=fingerprint
    )
    quantise_base(original, tmp_path / "copy", scheme, name="org/original")
    base = describe_base("copy", tmp_path / "copy")
    assert base.fingerprint != fingerprint
    assert base.original is not None
    assert (base.original.name, base.original.fingerprint) == ("org/original", fingerprint)
    assert verify_adapter(adapter, base=base, max_rank=8).name == "code"
    linear = {k: v for k, v in (describe_base("o", original).modules or {}).items() if "_proj" in k}
    assert linear.items() <= (base.modules or {}).items(), "shapes are known, also of packed layers"


def test_of_several_files_the_index_is_written_anew(original: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    (sharded / "config.json").write_text((original / "config.json").read_text())
    (sharded / "model.safetensors.index.json").write_text("{}")
    weights = load_file(original / "model.safetensors")
    names = sorted(weights)
    for i, part in enumerate((names[::2], names[1::2])):
        save_file({name: weights[name] for name in part}, sharded / f"model-{i}.safetensors")
    quantise_base(sharded, tmp_path / "copy", "w8a8-int8", name="sharded")
    index = json.loads((tmp_path / "copy" / "model.safetensors.index.json").read_text())["weight_map"]
    for i in range(2):
        assert {name for name, file in index.items() if file == f"model-{i}.safetensors"} == set(
            load_file(tmp_path / "copy" / f"model-{i}.safetensors")
        )


def test_what_is_refused_leaves_nothing_behind(original: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    quantise_base(original, copy, "w8a8-int8", name="o")
    with pytest.raises(SettingsError, match="exists"):
        quantise_base(original, copy, "w8a8-int8", name="o")
    with pytest.raises(Unsupported, match="already"):
        quantise_base(copy, tmp_path / "twice", "w8a8-int8", name="o")
    with pytest.raises(WrongBase):
        quantise_base(tmp_path, tmp_path / "nothing", "w8a8-int8", name="o")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    for name, problem in {
        "h.0.attn.c_attn.weight": "Llama",
        "layers.0.experts.0.up_proj.weight": "experts",
    }.items():
        save_file({name: torch.ones(4, 4)}, other / "model.safetensors")
        with pytest.raises(Unsupported, match=problem):
            quantise_base(other, tmp_path / "refused", "w8a8-int8", name="o")
    save_file({"layers.0.up_proj.weight": torch.full((4, 4), float("nan"))}, other / "model.safetensors")
    with pytest.raises(Unsupported, match="NaN"):
        quantise_base(other, tmp_path / "refused", "w8a8-int8", name="o")
    assert {path.name for path in tmp_path.iterdir()} == {"copy", "other"}
