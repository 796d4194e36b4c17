"""Compositions against the sum of dense matrices that they stand for. No torch here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from threadpoolctl import threadpool_info, threadpool_limits

from adaptive_lora.adapters import compose_math
from adaptive_lora.adapters.compose import Method, compose, composition_key, part_ids, read_composed
from adaptive_lora.adapters.manifest import read_manifest
from adaptive_lora.errors import (
    Conflict,
    HashMismatch,
    InvalidRequest,
    StorageError,
    UnsafeName,
    WrongModules,
)
from adaptive_lora.types import AdapterVersion
from tests.adapter_folders import SHAPES, base_modules, lora_weights, peft_config, verified, write_adapter

FACTORS = ("lora_A.weight", "lora_B.weight")


def part(
    folder: Path, name: str, rank: int, *, seed: int, modules: Sequence[str] | None = None, **config: object
) -> AdapterVersion:
    """An adapter of that rank (but for what `config` says) on the modules whose paths end in `modules`."""
    random = np.random.default_rng(seed)
    ranks = dict(config.get("rank_pattern", {}))  # type: ignore[call-overload]
    weights = {}
    for path, (n_out, n_in) in base_modules().items():
        if modules is not None and not path.endswith(tuple(modules)):
            continue
        own = next((r for key, r in ranks.items() if path.endswith(key)), rank)
        weights[f"base_model.model.{path}.lora_A.weight"] = random.standard_normal((own, n_in), np.float32)
        weights[f"base_model.model.{path}.lora_B.weight"] = random.standard_normal((n_out, own), np.float32)
    written = write_adapter(
        folder / name, name=name, weights=weights, config=peft_config(r=rank, lora_alpha=2 * rank, **config)
    )
    return verified(written)


def deltas(version: AdapterVersion) -> dict[str, np.ndarray]:
    """What an adapter adds to each module, as PEFT defines it: scaling * B @ A."""
    config = json.loads((version.path / "adapter_config.json").read_text())
    tensors = load_file(version.path / "adapter_model.safetensors")
    found = {}
    for path in {name.rsplit(".lora_", 1)[0].removeprefix("base_model.model.") for name in tensors}:
        a, b = (tensors[f"base_model.model.{path}.{f}"].astype(np.float64) for f in FACTORS)
        alpha = config["lora_alpha"]
        for key, value in (config["alpha_pattern"] or {}).items():
            if f".{path}".endswith(f".{key}"):
                alpha = value
                break
        rank = a.shape[0]
        found[path] = alpha / (rank**0.5 if config["use_rslora"] else rank) * b @ a
    return found


def weighted_sum(parts: Sequence[tuple[AdapterVersion, float]]) -> dict[str, np.ndarray]:
    total: dict[str, np.ndarray] = {}
    for version, weight in parts:
        for path, delta in deltas(version).items():
            total[path] = total.get(path, 0) + weight * delta
    return total


def relative(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> float:
    assert found.keys() == wanted.keys()
    lost = sum(float(((found[path] - wanted[path]) ** 2).sum()) for path in wanted)
    return (lost / sum(float((matrix**2).sum()) for matrix in wanted.values())) ** 0.5


@pytest.fixture
def two(tmp_path: Path) -> list[AdapterVersion]:
    return [part(tmp_path, "code", 8, seed=1), part(tmp_path, "reasoning", 4, seed=2)]


Kinds = st.lists(
    st.tuples(
        st.integers(1, 9),  # rank
        st.floats(0.01, 4),  # weight
        st.booleans(),  # rslora
        st.sampled_from(
            [
                {},
                {"rank_pattern": {"q_proj": 3}},
                {"alpha_pattern": {"layers.1.mlp.down_proj": 5}},
                {
                    "rank_pattern": {"layers.0.mlp.down_proj": 11},
                    "alpha_pattern": {"down_proj": 7, "q_proj": 2.5},
                },
            ]
        ),
        st.sampled_from([None, ["q_proj"], ["layers.1.mlp.down_proj"], ["down_proj"]]),  # modules
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(Kinds)
def test_the_delta_is_the_weighted_sum_of_the_deltas(tmp_path: Path, kinds: list[tuple]) -> None:
    shutil.rmtree(tmp_path)
    parts = [
        (part(tmp_path, f"part-{i}", rank, seed=i, modules=modules, use_rslora=rslora, **patterns), weight)
        for i, (rank, weight, rslora, patterns, modules) in enumerate(kinds)
    ]
    composed = compose(parts, tmp_path / "sum", max_rank=64)
    assert composed.relative_error == 0
    assert relative(deltas(composed.version), weighted_sum(parts)) < 1e-6
    assert composed.version.rank <= 64


@pytest.mark.parametrize("max_rank", [1, 6, 11])
def test_above_the_maximal_rank_the_loss_is_the_least_one_and_stated(
    two: list[AdapterVersion], tmp_path: Path, max_rank: int
) -> None:
    parts = [(two[0], 0.7), (two[1], 1.3)]
    composed = compose(parts, tmp_path / "sum", max_rank=max_rank)
    wanted, found = weighted_sum(parts), deltas(composed.version)
    assert composed.version.rank == max_rank
    assert composed.relative_error == pytest.approx(relative(found, wanted), abs=1e-5)
    losses = {path: relative({path: found[path]}, {path: wanted[path]}) for path in wanted}
    assert composed.worst_error == pytest.approx(max(losses.values()), abs=1e-5)
    assert losses[composed.worst_module] == pytest.approx(composed.worst_error, abs=1e-5)
    for path, matrix in wanted.items():
        values = np.linalg.svd(matrix, compute_uv=False) ** 2
        assert losses[path] == pytest.approx((values[max_rank:].sum() / values.sum()) ** 0.5, abs=1e-5)


def test_only_what_exceeds_the_maximal_rank_is_reduced(tmp_path: Path) -> None:
    parts = [
        (part(tmp_path, "everywhere", 6, seed=1), 1.0),
        (part(tmp_path, "attention", 6, seed=2, modules=["q_proj"]), 1.0),
    ]
    composed = compose(parts, tmp_path / "sum", max_rank=8)
    found, wanted = deltas(composed.version), weighted_sum(parts)
    assert composed.worst_module.endswith("q_proj")
    assert 0 < composed.relative_error < composed.worst_error
    for path in wanted:
        loss = relative({path: found[path]}, {path: wanted[path]})
        assert (loss < 1e-6) == path.endswith("down_proj")
    config = json.loads((composed.version.path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (8, 8)
    assert config["rank_pattern"] == config["alpha_pattern"] == {"down_proj": 6}


@pytest.mark.parametrize("method", ["ties", "dare_linear", "dare_ties"])
def test_the_other_methods_state_what_the_rank_costs_them(
    two: list[AdapterVersion], tmp_path: Path, method: Method
) -> None:
    """With full rank nothing is lost; with less, the more the less rank there is."""
    parts = [(two[0], 0.7), (two[1], 0.3)]
    errors = [
        compose(parts, tmp_path / f"rank-{rank}", max_rank=rank, method=method).relative_error
        for rank in (4, 12, 32)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-5


def test_without_dropping_dare_is_the_sum(two: list[AdapterVersion], tmp_path: Path) -> None:
    parts = [(two[0], 0.7), (two[1], 0.3)]
    composed = compose(parts, tmp_path / "sum", max_rank=32, method="dare_linear", density=1.0)
    assert relative(deltas(composed.version), weighted_sum(parts)) < 1e-5


def test_the_seed_decides_what_dare_drops(two: list[AdapterVersion], tmp_path: Path) -> None:
    parts = [(two[0], 0.7), (two[1], 0.3)]
    one, again, other = (
        compose(parts, tmp_path / f"{i}", max_rank=12, method="dare_ties", seed=seed)
        for i, seed in enumerate((0, 0, 1))
    )
    assert one.version.version == again.version.version != other.version.version


def test_it_is_built_on_one_core(
    two: list[AdapterVersion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever numpy's library would take; the engine needs the others."""
    n_threads: set[int] = set()
    reduce_product = compose_math.reduce_product

    def watched(*arguments: Any) -> compose_math.Reduced:
        n_threads.update(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return reduce_product(*arguments)

    monkeypatch.setattr(compose_math, "reduce_product", watched)
    with threadpool_limits(limits=2, user_api="blas"):
        compose([(two[0], 0.7), (two[1], 0.3)], tmp_path / "sum", max_rank=8)
    assert n_threads == {1}


def test_it_is_an_adapter_like_any_other(two: list[AdapterVersion], tmp_path: Path) -> None:
    composed = compose([(two[0], 0.7), (two[1], 0.3)], tmp_path / "deep" / "sum", max_rank=16)
    version = composed.version
    assert version.name == "composition"
    assert version.id == f"composition@{read_manifest(version.path, composed=True).version}"
    assert version.rank == 12
    assert version.examples == version.probes == ()
    assert all(f"{weight} x {p.id}" in version.description for p, weight in zip(two, (0.7, 0.3), strict=True))
    assert read_composed(version.path, max_rank=16) == composed
    assert part_ids(version.path) == {two[0].id, two[1].id}
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"sum"}
    with pytest.raises(UnsafeName, match="reserved"):  # nobody can bring one from elsewhere
        verified(version.path)


def test_the_same_request_gives_the_same_version(two: list[AdapterVersion], tmp_path: Path) -> None:
    """In whatever order the parts stand, and however often one of them."""
    code, reasoning = two
    same = [
        [(code, 0.75), (reasoning, 0.25)],
        [(reasoning, 0.25), (code, 0.75)],
        [(code, 0.5), (reasoning, 0.25), (code, 0.25)],
    ]
    versions = {compose(p, tmp_path / f"{i}", max_rank=16).version.id for i, p in enumerate(same)}
    assert len(versions) == 1
    assert len({composition_key(p, max_rank=16) for p in same}) == 1
    other = compose([(code, 0.7), (reasoning, 0.3)], tmp_path / "other", max_rank=16)
    assert other.version.id not in versions


def test_the_key_tells_apart_what_gives_other_weights(two: list[AdapterVersion]) -> None:
    parts = [(two[0], 0.75), (two[1], 0.25)]
    keys = [
        composition_key(parts, max_rank=16),
        composition_key(parts, max_rank=8),
        composition_key([(two[0], 0.75), (two[1], 0.26)], max_rank=16),
        composition_key([(two[0], 0.75), (replace(two[1], version="0" * 12), 0.25)], max_rank=16),
        composition_key(parts, max_rank=16, method="ties"),
        composition_key(parts, max_rank=16, method="ties", density=0.2),
        composition_key(parts, max_rank=16, method="dare_ties"),
        composition_key(parts, max_rank=16, method="dare_ties", seed=1),
    ]
    assert len(set(keys)) == len(keys)
    # and together what does not
    assert composition_key(parts, max_rank=16, density=0.2, seed=3) == keys[0]
    assert composition_key(parts, max_rank=16, method="ties", seed=3) == keys[4]


def test_half_types_are_copied_and_products_are_float32(tmp_path: Path) -> None:
    """A bfloat16 or float16 has too few digits for w * s * B."""
    halves = {name: w.astype(np.float16) for name, w in lora_weights(4, seed=1).items()}
    half, twin = (
        verified(write_adapter(tmp_path / name, weights=halves, config=peft_config(r=4, lora_alpha=7)))
        for name in ("half", "twin")
    )
    wide = part(tmp_path, "wide", 4, seed=2)
    both = [(half, 0.3), (twin, 0.9)]
    for parts, a_type in ((both, np.float16), ([(half, 0.3), (wide, 0.7)], np.float32)):
        composed = compose(parts, tmp_path / f"sum-{np.dtype(a_type)}", max_rank=16)
        tensors = load_file(composed.version.path / "adapter_model.safetensors")
        assert {w.dtype for name, w in tensors.items() if "lora_A" in name} == {np.dtype(a_type)}
        assert {w.dtype for name, w in tensors.items() if "lora_B" in name} == {np.dtype(np.float32)}
        assert relative(deltas(composed.version), weighted_sum(parts)) < 1e-6


def test_a_part_whose_files_changed_is_refused(two: list[AdapterVersion], tmp_path: Path) -> None:
    weights = two[0].path / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(HashMismatch, match="adapter_model"):
        compose([(two[0], 0.7), (two[1], 0.3)], tmp_path / "sum", max_rank=16)
    assert not (tmp_path / "sum").exists()


def test_parts_for_different_bases_are_refused(two: list[AdapterVersion], tmp_path: Path) -> None:
    weights = {
        name: w if "lora_A" in name else np.ones((SHAPES["mlp.down_proj"][0] + 1, 4), np.float32)
        for name, w in lora_weights(4).items()
    }
    other = verified(write_adapter(tmp_path / "other", weights=weights, config=peft_config(r=4)))
    with pytest.raises(WrongModules, match=f"different shapes in {two[0].id}, {other.id}"):
        compose([(two[0], 0.7), (other, 0.3)], tmp_path / "sum", max_rank=16)
    assert {path.name for path in tmp_path.iterdir()} == {"code", "reasoning", "other"}  # nothing half-done


def test_values_out_of_range_are_refused(two: list[AdapterVersion], tmp_path: Path) -> None:
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidRequest, match=f"weight of {two[0].id}"):
            compose([(two[0], weight)], tmp_path / "sum", max_rank=16)
    with pytest.raises(InvalidRequest, match="at least one part"):
        compose([], tmp_path / "sum", max_rank=16)
    for density in (0.0, 1.5):
        with pytest.raises(InvalidRequest, match="density"):
            compose([(two[0], 1.0)], tmp_path / "sum", max_rank=16, method="ties", density=density)


def test_a_folder_that_is_there_is_not_touched(two: list[AdapterVersion], tmp_path: Path) -> None:
    (tmp_path / "sum").mkdir()
    (tmp_path / "sum" / "mine").write_text("mine")
    with pytest.raises(Conflict, match="exists"):
        compose([(two[0], 1.0)], tmp_path / "sum", max_rank=16)
    assert [path.name for path in (tmp_path / "sum").iterdir()] == ["mine"]


def test_a_disk_that_refuses_is_said_so(two: list[AdapterVersion], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="cannot be used"):
        compose([(two[0], 1.0)], tmp_path / "file" / "sum", max_rank=16)


def test_a_damaged_composition_is_not_read(two: list[AdapterVersion], tmp_path: Path) -> None:
    composed = compose([(two[0], 1.0)], tmp_path / "sum", max_rank=16)
    (composed.version.path / "composition.json").write_text("{}")
    with pytest.raises(HashMismatch, match=r"composition\.json"):
        read_composed(composed.version.path, max_rank=16)
    assert part_ids(composed.version.path) == frozenset()
