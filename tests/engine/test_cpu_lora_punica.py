"""The wrapper that vLLM calls: its metadata, its methods, and the plugin that installs it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from vllm.lora.layers import LoRAMapping  # noqa: E402

from adaptive_lora.engine.cpu_lora import plugin  # noqa: E402
from adaptive_lora.engine.cpu_lora.punica import GroupedPunicaWrapperCPU  # noqa: E402

SLOTS, RANK, NUM_IN, VOCAB = 3, 4, 16, 50
INDEX_TO_ID = [7, None, 9]  # slot 1 is empty


def make_wrapper(token_ids: list[int], prompt_ids: list[int] | None = None):
    """`token_ids` are LoRA ids per row, 0 for the base model, as vLLM's scheduler gives them."""
    wrapper = GroupedPunicaWrapperCPU(64, max_batches=8, device="cpu")
    mapping = LoRAMapping(tuple(token_ids), tuple(prompt_ids or token_ids), is_prefill=True)
    wrapper.update_metadata(mapping, INDEX_TO_ID, SLOTS, VOCAB)
    return wrapper


def delta(x_row, a, b):
    return x_row @ a.t() @ b.t()


def test_linear_layers_with_slices():
    wrapper = make_wrapper([9, 0, 7, 9])
    a = tuple(torch.randn(SLOTS, 1, RANK, NUM_IN) for _ in range(2))
    b = tuple(torch.randn(SLOTS, 1, out, RANK) for out in (6, 10))
    x, y = torch.randn(4, NUM_IN), torch.zeros(4, 16)
    wrapper.add_lora_linear(y, x, a, b, 1.0, (6, 10))
    for row, slot in enumerate([2, None, 0, 2]):
        want = torch.zeros(16)
        if slot is not None:
            want = torch.cat([delta(x[row], a[i][slot, 0], b[i][slot, 0]) for i in range(2)])
        torch.testing.assert_close(y[row], want, rtol=1e-4, atol=1e-5)


def test_logits_use_one_row_per_request_and_pad_the_vocabulary():
    wrapper = make_wrapper([9, 9, 9, 0, 0, 7], prompt_ids=[9, 0, 7])
    a, b = torch.randn(SLOTS, 1, RANK, NUM_IN), torch.randn(SLOTS, 1, VOCAB, RANK)
    for width in (VOCAB, VOCAB + 14, VOCAB - 2):
        x, y = torch.randn(3, NUM_IN), torch.zeros(3, width)
        wrapper.add_lora_logits(y, x, a, b, 1.0)
        common = min(width, VOCAB)
        torch.testing.assert_close(
            y[0, :common], delta(x[0], a[2, 0], b[2, 0])[:common], rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            y[2, :common], delta(x[2], a[0, 0], b[0, 0])[:common], rtol=1e-4, atol=1e-5
        )
        assert not y[1].any()
        assert not y[:, common:].any()


def test_embeddings_only_expand():
    wrapper = make_wrapper([0, 7, 9])
    x, b = torch.randn(3, RANK), torch.randn(SLOTS, 1, 12, RANK)
    y = torch.ones(3, 12)
    wrapper.add_lora_embedding(y, x, b)
    assert torch.equal(y[0], torch.ones(12))
    torch.testing.assert_close(y[1], 1 + x[1] @ b[0, 0].t())
    torch.testing.assert_close(y[2], 1 + x[2] @ b[2, 0].t())


def test_shrink_and_expand_of_tensor_parallel_layers_equal_the_whole():
    wrapper = make_wrapper([9, 0, 7, 9])
    a = tuple(torch.randn(SLOTS, 1, RANK, NUM_IN) for _ in range(2))
    b = tuple(torch.randn(SLOTS, 1, out, RANK) for out in (6, 10))
    x = torch.randn(4, NUM_IN)
    whole, parts = torch.ones(4, 20), torch.ones(4, 20)
    wrapper.add_lora_linear(whole[:, 2:18], x, a, b, 0.5, (6, 10))
    buffer = torch.zeros(2, 4, RANK)
    wrapper.add_shrink(buffer, x, a, 0.5)
    wrapper.add_expand(parts, buffer, b, (6, 10), offset_start=2)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    assert not buffer[:, 1].any()


def test_the_next_step_has_its_own_groups():
    wrapper = make_wrapper([7, 9])
    a, b = (torch.randn(SLOTS, 1, RANK, NUM_IN),), (torch.randn(SLOTS, 1, 6, RANK),)
    for ids in ([0, 0, 0], [9], [7, 0]):
        wrapper.update_metadata(LoRAMapping(tuple(ids), tuple(ids)), INDEX_TO_ID, SLOTS, VOCAB)
        assert wrapper.no_lora == (set(ids) == {0})
        x, y = torch.randn(len(ids), NUM_IN), torch.zeros(len(ids), 6)
        wrapper.add_lora_linear(y, x, a, b, 1.0, (6,))
        for row, lora_id in enumerate(ids):
            want = torch.zeros(6)
            if lora_id:
                slot = INDEX_TO_ID.index(lora_id)
                want = delta(x[row], a[0][slot, 0], b[0][slot, 0])
            torch.testing.assert_close(y[row], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("version", "ok"),
    [
        ("0.32.0", True),
        ("0.32.0+cpu", True),
        ("0.32.3", True),
        ("0.31.2", False),
        ("0.33.0", False),
        ("1.0.0", False),
        ("dev", False),
        ("0.32rc1", False),
    ],
)
def test_the_tested_range_of_versions(version, ok):
    assert plugin.tested(version) is ok


CASES = {
    "default": ({}, None, True, ""),
    "stock": ({plugin.ENV: "stock"}, None, False, ""),
    "unknown version": ({}, "0.99.0", False, "steps aside"),
    "forced": ({plugin.ENV: "ours"}, "0.99.0", True, ""),
    "typo": ({plugin.ENV: "yes"}, None, True, "neither 'ours' nor 'stock'"),
}
"""Environment, version of vLLM, whether our wrapper is installed, what is said."""

PRINT_WRAPPERS = """
import json, os, sys
import vllm
from vllm.platforms import current_platform
from adaptive_lora.engine.cpu_lora.plugin import register

for env, version, file in json.load(sys.stdin):
    if (pid := os.fork()) == 0:
        output = os.open(file, os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1), os.dup2(output, 2)
        os.environ.update(env)
        if version:
            vllm.__version__ = version
        register(), register()
        print(current_platform.get_punica_wrapper(), flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What each case prints in a process of its own; they share the seconds that vLLM's import takes."""
    folder = tmp_path_factory.mktemp("outputs")
    cases = [(env, version, str(folder / name)) for name, (env, version, *_) in CASES.items()]
    subprocess.run(
        [sys.executable, "-c", PRINT_WRAPPERS],
        env={k: v for k, v in os.environ.items() if k != plugin.ENV},
        input=json.dumps(cases),
        text=True,
        check=True,
    )
    return {name: (folder / name).read_text() for name in CASES}


@pytest.mark.parametrize("case", CASES)
def test_the_plugin_in_a_process_of_its_own(outputs, case):
    *_, installed, says = CASES[case]
    output = outputs[case]
    assert (output.splitlines()[-1] == plugin.WRAPPER) is installed
    assert says in output
    if not says:
        assert "CPU multi-LoRA" not in output


def test_the_plugin_never_breaks_vllms_start(monkeypatch, caplog):
    def broken() -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(plugin, "_register", broken)
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    plugin.register()
    assert "not installed" in caplog.text
