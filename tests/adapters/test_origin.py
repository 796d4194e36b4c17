from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adaptive_lora.adapters.base import BaseModelInfo, describe_base
from adaptive_lora.adapters.origin import ORIGIN_NAME, Origin, read_origin, write_origin
from adaptive_lora.adapters.verify import verify_adapter
from adaptive_lora.errors import WrongBase

Make = Callable[..., Path]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_origin(tmp_path) is None
    origin = Origin("org/model", "0" * 64, "w8a8-int8")
    write_origin(tmp_path, origin)
    assert read_origin(tmp_path) == origin


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"name": 1}', '{"name": "x", "alias": "y"}', '{"name": ""}']
)
def test_a_file_that_makes_no_sense_is_an_error_not_an_absence(tmp_path: Path, text: str) -> None:
    (tmp_path / ORIGIN_NAME).write_text(text)
    with pytest.raises(WrongBase, match=ORIGIN_NAME):
        read_origin(tmp_path)


def test_the_operators_word_counts_before_the_folders(base_dir: Path) -> None:
    write_origin(base_dir, Origin("org/one"))
    assert describe_base("b", base_dir).original == Origin("org/one")
    assert describe_base("b", base_dir, Origin("org/two")).original == Origin("org/two")
    assert describe_base("b", None, Origin("org/two")).original == Origin("org/two")


def test_another_origin_does_not_help(make_adapter: Make, base: BaseModelInfo) -> None:
    adapter, served = make_adapter(), replace(base, name="copy", fingerprint="1" * 64)
    for original in (Origin("org/else"), Origin("demo", "2" * 64)):
        with pytest.raises(WrongBase, match="another base model"):
            verify_adapter(adapter, base=replace(served, original=original), max_rank=8)
    right = Origin("whatever", base.fingerprint)
    verify_adapter(adapter, base=replace(served, original=right), max_rank=8)


def test_adapters_trained_on_the_quantised_base_itself_stay_welcome(
    make_adapter: Make, base: BaseModelInfo
) -> None:
    verify_adapter(make_adapter(), base=replace(base, original=Origin("org/else", "2" * 64)), max_rank=8)


def test_of_an_original_known_by_name_the_name_decides(make_adapter: Make, base: BaseModelInfo) -> None:
    served = replace(base, name="copy-awq", fingerprint="1" * 64, original=Origin("other-org/Llama-8B"))
    verify_adapter(make_adapter(base_model="org/Llama-8B"), base=served, max_rank=8)


def test_integers_of_full_size_have_a_shape_and_packed_ones_say_theirs(
    tmp_path: Path, base_dir: Path
) -> None:
    path = "model.layers.0.mlp"
    tensors = {
        f"{path}.up_proj.weight": np.zeros((48, 32), np.int8),
        f"{path}.down_proj.weight_packed": np.zeros((32, 6), np.int32),
        f"{path}.down_proj.weight_shape": np.array([32, 48]),
        f"{path}.gate_proj.qweight": np.zeros((4, 48), np.int32),
    }
    save_file(tensors, base_dir / "model.safetensors")
    info = describe_base("b", base_dir)
    assert info.shapes_of(f"{path}.up_proj") == ((48, 32),)
    assert info.shapes_of(f"{path}.down_proj") == ((32, 48),)
    assert info.shapes_of(f"{path}.gate_proj") == (None,)
