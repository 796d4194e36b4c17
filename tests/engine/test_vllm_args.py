"""What vLLM is told on a machine with a GPU. The platform is vLLM's own class for "neither CPU nor known"."""

from __future__ import annotations

import pytest

pytest.importorskip("vllm")

from adaptive_lora.engine.vllm_args import VLLMOptions, engine_arguments
from adaptive_lora.errors import SettingsError

pytestmark = pytest.mark.vllm


@pytest.fixture(autouse=True)
def _not_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm import platforms
    from vllm.platforms.interface import UnspecifiedPlatform

    monkeypatch.setattr(platforms, "current_platform", UnspecifiedPlatform())


def test_float32_with_adapters_is_refused_before_it_starts() -> None:
    with pytest.raises(SettingsError, match="float32 on a GPU"):
        engine_arguments(VLLMOptions("base", dtype="float32"))
    assert engine_arguments(VLLMOptions("base", dtype="float32", enable_lora=False))["dtype"] == "float32"


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16"])
def test_the_type_and_the_cache_are_vllms_to_choose(dtype: str) -> None:
    arguments = engine_arguments(VLLMOptions("base", dtype=dtype))
    assert arguments["dtype"] == dtype
    assert "kv_cache_memory_bytes" not in arguments
    assert engine_arguments(VLLMOptions("base", kv_cache_bytes=1 << 30))["kv_cache_memory_bytes"] == 1 << 30
