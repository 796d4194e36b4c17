"""The function that runs in a worker: on a machine with a CUDA device it has figures, elsewhere none."""

from __future__ import annotations

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from adaptive_lora.engine.device_memory import device_memory  # noqa: E402 - only where torch is


def test_figures_of_the_device_that_computes() -> None:
    if not torch.cuda.is_available():
        assert device_memory() == {}
        return
    before = device_memory()
    block = torch.ones(1 << 20, device="cuda")
    ((device, after),) = device_memory().items()
    assert device == f"cuda:{torch.cuda.current_device()}"
    assert after["allocated"] - before[device]["allocated"] == block.nbytes
    assert after["allocated"] <= after["reserved"] <= after["total"]
    assert after["free"] <= after["total"]


def test_it_needs_no_vllm() -> None:
    code = (
        "import sys; from adaptive_lora.engine.device_memory import device_memory; device_memory()\n"
        "print([name for name in sys.modules if name.partition('.')[0] == 'vllm'])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
