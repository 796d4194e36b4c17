"""The grouped LoRA arithmetic against a plain reference, for every shape that vLLM calls it with."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from adaptive_lora.engine.cpu_lora import ops  # noqa: E402

NUM_IN = 24


def make_stacks(slots: int, ranks: list[int], outs: list[int], rank: int, dtype, seed: int = 0):
    """Stacks as vLLM allocates them: slot i holds an adapter of rank ranks[i]; rank 0 is an empty slot."""
    generator = torch.Generator().manual_seed(seed)
    a_stacks = [torch.zeros(slots, 1, rank, NUM_IN, dtype=dtype) for _ in outs]
    b_stacks = [torch.zeros(slots, 1, out, rank, dtype=dtype) for out in outs]
    for slot, r in enumerate(ranks):
        for a, b in zip(a_stacks, b_stacks, strict=True):
            a[slot, 0, :r] = torch.randn(r, NUM_IN, generator=generator).to(dtype)
            b[slot, 0, :, :r] = torch.randn(b.shape[2], r, generator=generator).to(dtype)
    return a_stacks, b_stacks


def reference(y, x, a_stacks, b_stacks, indices, scale):
    """Row by row, in float64; and how much of it goes through the rank-sized intermediate."""
    want, through = y.double().clone(), torch.zeros(y.shape, dtype=torch.float64)
    for row, slot in enumerate(indices):
        if slot < 0:
            continue
        start = 0
        for a, b in zip(a_stacks, b_stacks, strict=True):
            out = b.shape[2]
            h = x[row].double() @ a[slot, 0].double().t()
            want[row, start : start + out] += scale * h @ b[slot, 0].double().t()
            through[row, start : start + out] = abs(scale) * h.abs() @ b[slot, 0].double().t().abs()
            start += out
    return want, through


def check(indices, *, slots, ranks, outs, rank, dtype=torch.float32, scale=1.0, seed=0):
    a_stacks, b_stacks = make_stacks(slots, ranks, outs, rank, dtype, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(len(indices), NUM_IN, generator=generator).to(dtype)
    y = torch.randn(len(indices), sum(outs), generator=generator).to(dtype)
    want, through = reference(y, x, a_stacks, b_stacks, indices, scale)
    before = y.clone()
    weights = ops.PackedWeights(a_stacks, b_stacks)
    ops.add_lora(y, x, weights, ops.plan_rows(indices), scale)
    # One rounding of the sum to the type of y, on top of float32 products; native bf16 rounds in between.
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    allowed = tolerance * want.abs() + 1e-3 + (2**-8 * through if weights.has_native_products else 0)
    assert ((y.double() - want).abs() <= allowed).all()
    base = [row for row, slot in enumerate(indices) if slot < 0]
    assert torch.equal(y[base], before[base]), "rows of the base model must keep every bit"


SLICES = {"one": [40], "qkv": [32, 16, 16], "gate_up": [48, 48]}


@pytest.mark.parametrize("outs", SLICES.values(), ids=SLICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("num_adapters", [1, 2, 8, 16, 32])
def test_decode_with_base_rows_between(outs, dtype, num_adapters):
    indices = [i % (num_adapters + 1) - 1 for i in range(48)]
    check(indices, slots=num_adapters, ranks=[8] * num_adapters, outs=outs, rank=8, dtype=dtype)


@pytest.mark.parametrize("outs", SLICES.values(), ids=SLICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("native", [False, True])
def test_prefill_of_several_requests_and_decoding_ones(outs, dtype, native, monkeypatch):
    monkeypatch.setattr(ops, "native_bf16", lambda: native)
    indices = [0] * 70 + [-1] * 40 + [2] * 33 + [1] * 5 + [0] + [2] + [-1] + [0] * 50
    check(indices, slots=4, ranks=[8, 8, 8, 0], outs=outs, rank=8, dtype=dtype, scale=0.5)


@pytest.mark.parametrize(
    "indices",
    [
        [-1] * 7,
        [3] * 7,
        [3],
        [-1],
        [0, 1, 2, 3],
        [3, 3, -1],
        [0, 3] * 9,
        [0] * 40 + [3],
        [2] * 100,
    ],
    ids=[
        "base",
        "one adapter",
        "one row",
        "one base row",
        "row each",
        "last slot",
        "far slots",
        "skewed",
        "long",
    ],
)
def test_shapes_of_batches(indices):
    check(indices, slots=4, ranks=[4, 4, 4, 4], outs=[16, 8], rank=4)


def test_the_last_slot_is_not_for_base_rows():
    """vLLM's own CPU path reads index -1 as the last slot."""
    check([-1, 0, -1, 1], slots=2, ranks=[4, 4], outs=[16], rank=4)


def test_rank_below_the_slots_rank_and_empty_slots():
    check([0, 1, 2, 3, -1, 0], slots=4, ranks=[2, 0, 8, 5], outs=[16, 8], rank=8)


def test_an_infinite_adapter_leaves_its_neighbours_alone():
    a_stacks, b_stacks = make_stacks(2, [4, 4], [16], 4, torch.float32)
    a_stacks[0][1] = torch.inf
    x, y = torch.randn(6, NUM_IN), torch.zeros(6, 16)
    ops.add_lora(y, x, ops.PackedWeights(a_stacks, b_stacks), ops.plan_rows([0, 1, -1, 0, 1, -1]), 1.0)
    assert torch.isfinite(y[[0, 2, 3, 5]]).all()


@given(
    indices=st.lists(st.integers(-1, 5), min_size=1, max_size=90),
    repeat=st.integers(1, 40),
    ranks=st.lists(st.integers(0, 8), min_size=6, max_size=6),
    outs=st.lists(st.sampled_from([4, 12, 20]), min_size=1, max_size=3),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=150)
def test_any_batch(indices, repeat, ranks, outs, seed):
    indices = indices + [indices[-1]] * repeat
    check(indices, slots=6, ranks=ranks, outs=outs, rank=8, seed=seed)


@given(indices=st.lists(st.integers(-1, 40), max_size=300))
def test_a_plan_covers_every_adapted_row_once(indices):
    plan = ops.plan_rows(indices)
    covered = []
    for segment in plan.segments:
        rows = segment.rows
        members = range(rows.start, rows.stop) if isinstance(rows, slice) else rows.tolist()
        assert all(indices[row] == segment.slot for row in members)
        covered += members
    if plan.grid is not None:
        grid = plan.grid
        rows = list(range(len(indices))) if grid.rows is None else grid.rows.tolist()
        for row, place in zip(rows, grid.scatter.tolist(), strict=True):
            assert grid.gather[place] == row
            assert indices[row] == grid.lo + place // grid.width
        covered += rows
    assert sorted(covered) == [row for row, slot in enumerate(indices) if slot >= 0]
    assert plan.slots == tuple(sorted({slot for slot in indices if slot >= 0}))
    for slot, rows in plan.groups:
        assert rows.tolist() == [row for row, s in enumerate(indices) if s == slot]


def test_a_row_does_not_depend_on_its_neighbours():
    a_stacks, b_stacks = make_stacks(4, [8] * 4, [64, 32], 8, torch.float32)
    weights = ops.PackedWeights(a_stacks, b_stacks)
    indices = [0, 3, -1, 1, 1, 2, 0, 3]
    x = torch.randn(8, NUM_IN)
    together, alone = torch.zeros(8, 96), torch.zeros(8, 96)
    ops.add_lora(together, x, weights, ops.plan_rows(indices), 1.0)
    for row, slot in enumerate(indices):
        ops.add_lora(alone[row : row + 1], x[row : row + 1], weights, ops.plan_rows([slot]), 1.0)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_weights_follow_changes_in_place():
    a_stacks, b_stacks = make_stacks(2, [4, 0], [16], 4, torch.float32)
    weights = ops.PackedWeights(a_stacks, b_stacks)
    x, plan = torch.randn(3, NUM_IN), ops.plan_rows([1, 1, 0])
    for change in ("nothing", "set slot 1", "reset slot 0"):
        if change == "set slot 1":
            a_stacks[0][1, 0].copy_(torch.randn(4, NUM_IN))
            b_stacks[0][1, 0, :, :2].copy_(torch.randn(16, 2))
        if change == "reset slot 0":
            a_stacks[0][0] = 0
            b_stacks[0][0] = 0
        y = torch.zeros(3, 16)
        want, _ = reference(y, x, a_stacks, b_stacks, [1, 1, 0], 1.0)
        ops.add_lora(y, x, weights, plan, 1.0)
        torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-4, msg=change)
    assert weights.present == [False, True]


def test_a_layer_that_no_adapter_changes_costs_nothing_and_needs_no_matching_rows():
    a_stacks, b_stacks = make_stacks(2, [0, 0], [16], 4, torch.float32)
    y = torch.ones(5, 16)
    ops.add_lora(y, torch.randn(5, NUM_IN), ops.PackedWeights(a_stacks, b_stacks), ops.plan_rows([0, 1]), 1.0)
    assert torch.equal(y, torch.ones(5, 16))


def test_rows_that_the_mapping_does_not_know_are_an_error():
    a_stacks, b_stacks = make_stacks(1, [4], [16], 4, torch.float32)
    with pytest.raises(RuntimeError, match="5 rows, but the step's LoRA mapping is for 2"):
        ops.add_lora(
            torch.zeros(5, 16),
            torch.zeros(5, NUM_IN),
            ops.PackedWeights(a_stacks, b_stacks),
            ops.plan_rows([0, 0]),
            1.0,
        )
