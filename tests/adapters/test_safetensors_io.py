"""Single tensors, against the safetensors library itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from adaptive_lora.adapters.safetensors_io import open_tensors, write_tensors
from adaptive_lora.errors import UnsafeFile


def test_what_the_library_wrote_is_read(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tensors = {
        "wide": random.standard_normal((3, 5)).astype(np.float32),
        "half": random.standard_normal((4, 2)).astype(np.float16),
    }
    save_file(tensors, tmp_path / "t.safetensors")
    with open_tensors(tmp_path / "t.safetensors") as file:
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(file.read(name), tensor.astype(np.float32))
            assert file.read(name).dtype == np.float32
            assert file.raw(name) == tensor.tobytes()


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    tensor = torch.cat([torch.randn(50), torch.tensor([0.0, -0.0, 1e-40, 3e38, -1.5])]).bfloat16().view(5, 11)
    save_torch({"t": tensor}, tmp_path / "t.safetensors")
    with open_tensors(tmp_path / "t.safetensors") as file:
        np.testing.assert_array_equal(file.read("t"), tensor.float().numpy())


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    wide = np.arange(6, dtype=np.float32).reshape(2, 3)
    half = np.arange(5, dtype=np.float16).reshape(1, 5)
    with write_tensors(path, {"a": ("F16", (1, 5)), "b": ("F32", (2, 3))}) as writer:
        writer.write("a", half.tobytes())
        writer.write("b", wide)
    found = load_file(path)
    np.testing.assert_array_equal(found["a"], half)
    np.testing.assert_array_equal(found["b"], wide)
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {"format": "pt"}
    with open_tensors(path) as ours:  # the widest first, so that each is aligned
        assert ours.tensors["b"].begin % 8 == 0
        assert ours.tensors["a"].begin > ours.tensors["b"].begin


def test_a_tensor_that_is_missing_or_of_another_size_is_a_bug(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="not written: b"),
        write_tensors(tmp_path / "1", {"a": ("F32", (1,)), "b": ("F32", (1,))}) as writer,
    ):
        writer.write("a", np.zeros(1, np.float32))
    with (
        pytest.raises(ValueError, match="declared with 4 bytes"),
        write_tensors(tmp_path / "2", {"a": ("F32", (1,))}) as writer,
    ):
        writer.write("a", np.zeros(2, np.float32))


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.safetensors").write_bytes(b"PK\x03\x04" * 10)
    with pytest.raises(UnsafeFile, match="not a safetensors file"), open_tensors(tmp_path / "t.safetensors"):
        pass
