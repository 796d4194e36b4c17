"""Compositions against PEFT's `add_weighted_adapter`, on the logits of a small random Llama in float32."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from adaptive_lora.adapters.compose import Composed, compose
from adaptive_lora.adapters.compose_math import Factors, merge
from adaptive_lora.adapters.manifest import write_manifest
from adaptive_lora.types import AdapterVersion
from tests.adapter_folders import verified

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from peft import PeftModel  # noqa: E402
from peft.utils import merge_utils  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from adaptive_lora.engine.random_models import MODULES, make_adapters, make_model  # noqa: E402

Parts = Sequence[tuple[AdapterVersion, float]]

TOLERANCE = 1e-3
"""Of logits, whose standard deviation is about 1. What is found for weighted sums is below 2e-5."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def make(base: Path, tmp_path: Path) -> Callable[..., AdapterVersion]:
    """A random adapter; `config` changes what PEFT is told about it, `rank_pattern` its tensors as well."""

    def make_one(
        name: str, rank: int, *, seed: int, modules: Sequence[str] = MODULES, **config: Any
    ) -> AdapterVersion:
        (made,) = make_adapters(
            tmp_path / f"of-{name}", 1, rank, base=base, seed=seed, strength=0.5, modules=modules
        )
        path = made.rename(tmp_path / name)
        written = json.loads((path / "adapter_config.json").read_text()) | config
        (path / "adapter_config.json").write_text(json.dumps(written))
        tensors = load_file(path / "adapter_model.safetensors")
        for key, own in config.get("rank_pattern", {}).items():
            for tensor in [t for t in tensors if f"{key}.lora_" in t]:
                cut = tensors[tensor][:own] if ".lora_A." in tensor else tensors[tensor][:, :own]
                tensors[tensor] = cut.contiguous()
        save_file(tensors, path / "adapter_model.safetensors")
        write_manifest(path, name=name, description="random", examples=["x"], base_model="demo")
        return verified(path)

    return make_one


def logits(model: Any) -> Any:
    ids = torch.arange(3, 259).view(4, 64)
    with torch.no_grad():
        return model(ids).logits


def peft_model(base: Path, parts: Parts) -> Any:
    model = AutoModelForCausalLM.from_pretrained(base)
    first, *others = [version for version, _ in parts]
    model = PeftModel.from_pretrained(model, first.path, adapter_name=first.name)
    for version in others:
        model.load_adapter(version.path, adapter_name=version.name)
    return model


def weighted(base: Path, parts: Parts, combination_type: str, **options: Any) -> Any:
    """Logits with PEFT's own combination of the parts."""
    model = peft_model(base, parts)
    model.add_weighted_adapter(
        [version.name for version, _ in parts],
        [weight for _, weight in parts],
        "sum",
        combination_type=combination_type,
        **options,
    )
    model.set_adapter("sum")
    return logits(model)


def added(base: Path, parts: Parts) -> Any:
    """Logits of the base with PEFT's dense delta of each part added to its weights."""
    model = peft_model(base, parts)
    plain = AutoModelForCausalLM.from_pretrained(base)
    for path, module in model.base_model.model.named_modules():
        if hasattr(module, "lora_A"):
            linear = plain.get_submodule(path)
            for version, weight in parts:
                if version.name in module.lora_A:
                    linear.weight.data += weight * module.get_delta_weight(version.name).detach()
    return logits(plain)


def served(base: Path, composed: Composed) -> Any:
    """Logits with the composition, loaded by PEFT as it would load any adapter."""
    model = AutoModelForCausalLM.from_pretrained(base)
    return logits(PeftModel.from_pretrained(model, composed.version.path))


def difference(ours: Any, theirs: Any) -> float:
    found = float((ours - theirs).abs().max())
    print("DIFF", found)
    return found


def test_equal_to_cat(base: Path, make: Callable[..., AdapterVersion], tmp_path: Path) -> None:
    """Three parts of different ranks and alphas, one of them on the attention alone."""
    parts = [
        (make("code", 8, seed=1), 0.7),
        (make("reasoning", 4, seed=2, lora_alpha=9), 0.3),
        (make("creative", 6, seed=3, modules=["q_proj", "v_proj"]), 1.9),
    ]
    composed = compose(parts, tmp_path / "sum", max_rank=32)
    assert difference(served(base, composed), weighted(base, parts, "cat")) <= TOLERANCE
    assert difference(served(base, composed), logits(AutoModelForCausalLM.from_pretrained(base))) > 0.5
    assert composed.version.rank == 18


def test_equal_with_rslora_and_patterns(
    base: Path, make: Callable[..., AdapterVersion], tmp_path: Path
) -> None:
    """Against PEFT's dense deltas: its "cat" forgets rank_pattern and takes rsLoRA over from the first part,
    with another scaling than 1."""
    parts = [
        (make("stable", 8, seed=1, use_rslora=True, lora_alpha=5), 0.7),
        (
            make(
                "patterned",
                8,
                seed=2,
                rank_pattern={"layers.1.mlp.down_proj": 3, "q_proj": 5},
                alpha_pattern={"down_proj": 16, "k_proj": 2},
            ),
            0.4,
        ),
        (
            make(
                "both", 4, seed=3, use_rslora=True, alpha_pattern={"up_proj": 9}, rank_pattern={"o_proj": 2}
            ),
            1.2,
        ),
    ]
    composed = compose(parts, tmp_path / "sum", max_rank=32)
    assert composed.relative_error == 0
    assert difference(served(base, composed), added(base, parts)) <= TOLERANCE


def test_reduced_equals_svd(base: Path, make: Callable[..., AdapterVersion], tmp_path: Path) -> None:
    """PEFT takes the SVD of the dense sum: the best matrix of that rank, and there is only one."""
    parts = [(make("code", 8, seed=1), 0.7), (make("reasoning", 8, seed=2), 0.5)]
    composed = compose(parts, tmp_path / "sum", max_rank=6)
    assert composed.relative_error > 0.1
    assert difference(served(base, composed), weighted(base, parts, "svd", svd_rank=6)) <= TOLERANCE
    assert difference(served(base, composed), weighted(base, parts, "cat")) > 0.1


@pytest.mark.parametrize("rank", [32, 12])
def test_ties_equals_ties_svd(
    base: Path, make: Callable[..., AdapterVersion], tmp_path: Path, rank: int
) -> None:
    """The SVD of matrices this small is exact in ours as well."""
    parts = [(make("code", 8, seed=1), 0.7), (make("reasoning", 8, seed=2), 0.5)]
    composed = compose(parts, tmp_path / "sum", max_rank=rank, method="ties", density=0.3)
    theirs = weighted(base, parts, "ties_svd", svd_rank=rank, density=0.3)
    assert difference(served(base, composed), theirs) <= TOLERANCE


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_dare_is_distributed_as_in_peft(method: Literal["dare_linear", "dare_ties"]) -> None:
    """Another generator draws what is dropped: so moments are compared, over 250,000 entries."""
    random = np.random.default_rng(0)
    parts = [
        Factors(
            random.standard_normal((4, 500), np.float32),
            random.standard_normal((500, 4), np.float32),
            weight,
            i,
        )
        for i, weight in enumerate((0.7, 0.5))
    ]
    ours = merge(parts, method, density=0.4)
    torch.manual_seed(0)
    theirs = getattr(merge_utils, method)(
        [torch.from_numpy(part.b @ part.a) for part in parts], torch.tensor([0.7, 0.5]), 0.4
    ).numpy()
    for moment in (np.mean(ours == 0), np.mean(theirs == 0)):
        assert moment == pytest.approx(0.36, abs=0.005)
    assert np.abs(ours).mean() == pytest.approx(np.abs(theirs).mean(), rel=0.02)
    assert np.square(ours).mean() == pytest.approx(np.square(theirs).mean(), rel=0.03)
    dense = sum(part.weight * (part.b @ part.a) for part in parts)
    assert np.mean(ours * dense) == pytest.approx(np.mean(theirs * dense), rel=0.03)
