"""How the KV cache and the type are chosen on a CPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from adaptive_lora.engine import cpu_resources
from adaptive_lora.engine.cpu_resources import GIB
from adaptive_lora.errors import EngineError

LLAMA_8B = SimpleNamespace(
    num_hidden_layers=32, num_key_value_heads=8, num_attention_heads=32, hidden_size=4096
)


def test_free_memory_is_what_the_kernel_says():
    total_kib = int(Path("/proc/meminfo").read_text().split()[1])
    assert 0 < cpu_resources.available_memory_bytes() <= total_kib * 1024


def test_bytes_per_token_of_a_known_model():
    assert cpu_resources.kv_bytes_per_token(LLAMA_8B, "auto") == 128 * 1024
    assert cpu_resources.kv_bytes_per_token(LLAMA_8B, "float32") == 256 * 1024
    assert cpu_resources.kv_bytes_per_token(SimpleNamespace(), "auto") is None


def size(**changes):
    values = {"available": 8 * GIB, "weights": 0, "per_token": 1024, "max_model_len": 256, "max_num_seqs": 4}
    return cpu_resources.kv_cache_bytes(**(values | changes))


def test_asks_for_what_the_sequences_need_and_no_more():
    assert size() == 4 * 3 * 128 * 1024  # blocks of 128 tokens, one spare for each sequence


def test_takes_at_most_half_of_what_the_weights_leave():
    assert size(per_token=1 << 20, weights=4 * GIB, max_num_seqs=9) == 2 * GIB


def test_unusual_architectures_get_a_moderate_share():
    assert size(per_token=None) == 4 * GIB
    assert size(per_token=None, available=2 * GIB) == GIB


def test_says_what_is_missing():
    with pytest.raises(EngineError, match=r"needs \d+\.\d GiB free and there are 0\.5"):
        size(available=GIB // 2, per_token=1 << 20)


@pytest.mark.parametrize(
    ("dtype", "native", "weights", "best"),
    [
        ("auto", False, GIB, "float32"),
        ("auto", False, 3 * GIB, "auto"),
        ("auto", True, GIB, "auto"),
        ("bfloat16", False, GIB, "bfloat16"),
    ],
)
def test_float32_where_bf16_is_slow_and_memory_suffices(monkeypatch, dtype, native, weights, best):
    monkeypatch.setattr(cpu_resources, "native_bf16", lambda: native)
    assert cpu_resources.best_dtype(dtype, weights, 8 * GIB) == best
