"""The arithmetic, against published figures, a real engine's own formula, and files on disk."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adaptive_lora.adapters.safetensors_header import DTYPE_BYTES, read_header
from adaptive_lora.engine import cpu_resources
from adaptive_lora.errors import SettingsError
from adaptive_lora.sizing.memory import (
    GIB,
    Load,
    adapter_bytes,
    kv_bytes_per_token,
    memory,
    overhead_bytes,
    sequence_bytes,
    slot_bytes,
    weights_bytes,
)
from adaptive_lora.sizing.models import ALIASES, PRESETS, model_shape, shape_of

FLEET = Path(__file__).parents[2] / "demo" / "fleet"


@pytest.mark.parametrize(
    ("name", "n_parameters"),
    [
        ("llama3-1b", 1_235_814_400),
        ("llama3-3b", 3_212_749_824),
        ("llama3-8b", 8_030_261_248),
        ("llama3-70b", 70_553_706_496),
        ("llama3-405b", 405_853_388_800),
        ("qwen3-4b", 4_022_468_096),
        ("qwen3-8b", 8_190_735_360),
        ("qwen3-14b", 14_768_307_200),
        ("qwen3-32b", 32_762_123_264),
    ],
)
def test_the_presets_have_the_published_number_of_parameters(name: str, n_parameters: int) -> None:
    """As Hugging Face counts them in the models' files."""
    assert model_shape(name).n_parameters == n_parameters
    assert weights_bytes(model_shape(name), "bf16") == 2 * n_parameters


def test_every_preset_is_held_against_a_published_figure_and_every_alias_is_one() -> None:
    (mark,) = test_the_presets_have_the_published_number_of_parameters.pytestmark  # type: ignore[attr-defined]
    assert {name for name, _ in mark.args[1]} == PRESETS.keys()
    assert set(ALIASES.values()) <= PRESETS.keys()


@pytest.mark.parametrize(
    ("name", "n_bytes"),
    [("8b", 131_072), ("70b", 327_680), ("405b", 516_096), ("qwen3-8b", 147_456), ("qwen3-32b", 262_144)],
)
def test_kv_cache_of_a_token(name: str, n_bytes: int) -> None:
    assert kv_bytes_per_token(model_shape(name)) == n_bytes


@pytest.mark.parametrize("tensor_parallel", [1, 2, 8, 16])
@pytest.mark.parametrize("name", PRESETS)
def test_kv_cache_is_what_our_engine_computes_from_a_configuration(name: str, tensor_parallel: int) -> None:
    shape = model_shape(name)
    config = SimpleNamespace(
        num_key_value_heads=shape.n_kv_heads,
        num_attention_heads=shape.n_heads,
        head_dim=shape.head_dim,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.n_layers,
    )
    expected = cpu_resources.kv_bytes_per_token(config, "bfloat16", tensor_parallel)
    assert kv_bytes_per_token(shape, tensor_parallel) == expected


def test_the_demo_models_own_file_is_as_large_as_computed() -> None:
    path = FLEET / "base" / "model.safetensors"
    with path.open("rb") as file:
        header = read_header(file, path.stat().st_size)
    n_bytes = sum(tensor.end - tensor.begin for tensor in header.tensors)
    assert weights_bytes(model_shape(str(path.parent)), "bf16") == n_bytes


@pytest.mark.parametrize("name", ["analysis", "code", "creative", "reasoning"])
def test_the_demo_agents_own_files_are_as_large_as_computed(name: str) -> None:
    path = FLEET / "adapters" / name / "adapter_model.safetensors"
    with path.open("rb") as file:
        header = read_header(file, path.stat().st_size)
    rank = json.loads((path.parent / "adapter_config.json").read_text())["r"]
    (in_file,) = {DTYPE_BYTES[tensor.dtype] for tensor in header.tensors}
    n_bytes = sum(tensor.end - tensor.begin for tensor in header.tensors)
    held = adapter_bytes(model_shape(str(FLEET / "base")), rank)
    assert held / 2 == n_bytes / in_file, "as many numbers, in two bytes each"


def test_adapters_of_an_8b_llama() -> None:
    """The figures of docs/how-to/large-models.md; a slot is also made for embedding and lm_head."""
    shape = model_shape("8b")
    assert adapter_bytes(shape, 16) == 83_886_080
    assert slot_bytes(shape, 16) == 83_886_080 + 2 * 2 * 16 * (128_256 + 4096)
    assert adapter_bytes(model_shape("70b"), 16) == 414_187_520


def test_slots_on_several_gpus_are_split_where_the_layer_is() -> None:
    shape, parts = model_shape("8b"), 4
    split = 4096 + 1024 + 1024 + 14_336 + 14_336  # outputs of q, k, v, gate, up
    split += 4096 + 14_336  # inputs of o, down
    whole = 5 * 4096 + 2 * 4096  # the other sides
    per_layer = split / parts + whole
    assert slot_bytes(shape, 16, parts) == int(2 * 16 * (32 * per_layer + 2 * (128_256 + 4096)))
    assert parts * slot_bytes(shape, 16, parts) > slot_bytes(shape, 16) > slot_bytes(shape, 16, parts)


@pytest.mark.parametrize(
    ("quant", "least", "most"),
    [
        ("bf16", 16.0, 16.1),
        ("int8", 9.0, 9.2),
        ("fp8", 9.0, 9.2),
        ("int4", 6.0, 6.1),
        ("nf4", 6.0, 6.1),
        ("awq", 5.6, 5.8),
    ],
)
def test_weights_of_an_8b_llama_in_gb(quant: str, least: float, most: float) -> None:
    assert least <= weights_bytes(model_shape("8b"), quant) / 1e9 <= most


def test_sequences_hold_whole_blocks() -> None:
    shape = model_shape("8b")
    assert sequence_bytes(shape, 16) == 16 * 131_072
    assert sequence_bytes(shape, 17) == 32 * 131_072
    assert sequence_bytes(shape, 4096) == GIB // 2


def test_memory_is_the_sum_of_its_parts_and_grows_with_what_is_asked() -> None:
    shape = model_shape("8b")
    few = memory(shape, Load("nf4", 32, 16, 8, 4096, 16))
    many = memory(shape, Load("nf4", 32, 16, 8, 4096, 64))
    assert many.total == many.weights + many.slots + many.kv_cache + many.overhead
    assert (few.kv_cache, many.kv_cache) == (8 * GIB, 32 * GIB)
    assert many.fixed - few.fixed == 48 * 128_256 * 10, "the logits of 48 more sequences"
    assert memory(shape, Load(n_slots=16)).slots == 2 * memory(shape, Load(n_slots=8)).slots
    assert overhead_bytes(shape, Load(), 2) > 600 << 20


def test_a_configuration_file_says_what_a_preset_says(tmp_path: Path) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14_336,
        "vocab_size": 128_256,
        "tie_word_embeddings": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in (tmp_path, tmp_path / "config.json"):
        shape = model_shape(str(name))
        assert shape.n_parameters == model_shape("8b").n_parameters
        assert shape.name == str(tmp_path)
    qwen2 = shape_of({**config, "model_type": "qwen2"}, name="q")
    assert qwen2.n_parameters - shape.n_parameters == 32 * (4096 + 2 * 1024), "its biases"
    old = shape_of({key: value for key, value in config.items() if key != "num_key_value_heads"}, name="q")
    assert old.n_kv_heads == 32


def sizes(**changes: Any) -> str:
    """A small Llama's `config.json`."""
    usual = {"num_attention_heads": 4, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96}
    return json.dumps({"model_type": "llama", "vocab_size": 100} | usual | changes)


@pytest.mark.parametrize(
    ("changes", "longest"),
    [
        ({}, None),
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2.0}}, 8192),
        (
            {"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "dynamic", "factor": None}},
            4096,
        ),
        (
            {"max_position_embeddings": 131_072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            131_072,
        ),
        ({"max_position_embeddings": 131_072, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 131_072),
    ],
)
def test_how_long_a_context_a_model_was_made_for(changes: dict[str, Any], longest: int | None) -> None:
    """As vLLM derives it from the same file, which starts with no more."""
    assert shape_of(json.loads(sizes(**changes)), name="m").max_context == longest


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"model_type": "deepseek_v3"}', "model_type 'deepseek_v3'"),
        ('{"model_type": "llama"}', "lacks a size"),
        ('{"model_type": "llama", "num_attention_heads": 0, "hidden_size": 1}', "lacks a size"),
        (sizes(hidden_size=float("inf")), "lacks a size, or has a wrong one"),
        (sizes(num_hidden_layers=0), "has a size below 1"),
        (sizes(num_attention_heads=-4, hidden_size=-64), "has a size below 1"),
        ("[]", "no object"),
        ("{", "cannot be read as JSON"),
    ],
)
def test_what_is_no_llama_like_model_says_so(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SettingsError, match=says):
        model_shape(str(tmp_path))


@pytest.mark.parametrize("name", ["9b", "~nobody-of-this-name/model"])
def test_an_unknown_model_names_the_presets(name: str) -> None:
    with pytest.raises(SettingsError, match="presets are 1b, 3b, 8b"):
        model_shape(name)
