"""Grouped multi-LoRA arithmetic in plain torch: which rows go with which adapter, and their products.

A batch has one row per token; `indices[row]` is the slot of the row's adapter, or -1 for the base model.
Written for CPUs, where the two costs are the dispatch of small operators and the traffic of weights:

    plan     the rows are grouped once per step, not once per layer and not once per token
    packing  a layer's A matrices lie side by side in one float32 tensor, laid out for the GEMM: one product
             shrinks for all slices (q, k, v). float32, because on CPUs without native bf16 torch's bf16
             products run at a seventh of the speed or less, and as vLLM's GPU kernels keep this
             intermediate in float32 too
    bf16     where the CPU multiplies bf16, long runs (prefill) use vLLM's own bf16 weights in place and add
             to the output within the product: the float32 way spends ten times that on moving memory
    grid     short groups (decode: one row per request) are padded to one batched product over the slots,
             in float32: so few rows gain nothing from bf16

Rows of the base model are in no group, so nothing is ever written to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from adaptive_lora.engine.cpu_resources import native_bf16

LONG_RUN = 32
"""Neighbouring rows of one adapter from which on they are a product of their own, without gathering."""


@dataclass(frozen=True)
class Segment:
    """Rows of one adapter: a slice of neighbours, or int64 row numbers."""

    slot: int
    rows: slice | torch.Tensor


@dataclass(frozen=True)
class Grid:
    """Short groups as one padded batch over the slots `lo` to `hi`, `width` rows each."""

    lo: int
    hi: int
    width: int
    gather: torch.Tensor
    """int64[(hi - lo) * width]: the row at each place of the grid; padding repeats row 0 and is never read
    back."""
    scatter: torch.Tensor
    """int64[n]: the place in the grid of each row in `rows`."""
    rows: torch.Tensor | None
    """int64[n]: the batch's rows that the grid holds; None if it holds them all, in order."""


@dataclass(frozen=True)
class RowPlan:
    """How one step's rows are computed. Made once per step, used by every layer."""

    indices: npt.NDArray[np.int64]
    slots: tuple[int, ...]
    """Slots with at least one row, ascending."""
    segments: tuple[Segment, ...]
    grid: Grid | None

    @property
    def num_rows(self) -> int:
        return len(self.indices)

    @cached_property
    def groups(self) -> tuple[tuple[int, torch.Tensor], ...]:
        """All rows of each slot, for layers that are rare or small."""
        return tuple((slot, torch.from_numpy(np.flatnonzero(self.indices == slot))) for slot in self.slots)


def plan_rows(indices: torch.Tensor | Sequence[int]) -> RowPlan:
    """Group the rows of a step. `indices` is int64[num_rows], -1 for rows of the base model."""
    idx = np.asarray(indices, dtype=np.int64).copy()
    slots = tuple(int(slot) for slot in np.unique(idx) if slot >= 0)
    starts = np.flatnonzero(np.diff(idx, prepend=-2)) if len(idx) else np.zeros(0, dtype=np.int64)
    ends = np.append(starts[1:], len(idx))
    segments: list[Segment] = []
    short: dict[int, list[int]] = {}
    for start, end in zip(starts.tolist(), ends.tolist(), strict=False):
        slot = int(idx[start])
        if slot < 0:
            continue
        if end - start >= LONG_RUN or end - start == len(idx):
            segments.append(Segment(slot, slice(start, end)))
        else:
            short.setdefault(slot, []).extend(range(start, end))
    grid = _grid(short, len(idx)) if short else None
    if grid is None:
        segments.extend(Segment(slot, torch.tensor(short[slot])) for slot in sorted(short))
    return RowPlan(indices=idx, slots=slots, segments=tuple(segments), grid=grid)


def _grid(groups: dict[int, list[int]], num_rows: int) -> Grid | None:
    """A grid, unless it would be mostly padding: then the groups are better off as segments."""
    lo, hi = min(groups), max(groups) + 1
    width = max(map(len, groups.values()))
    num_held = sum(map(len, groups.values()))
    if hi - lo > 2 * len(groups) or (hi - lo) * width > 4 * num_held:
        return None
    gather = np.zeros((hi - lo, width), dtype=np.int64)
    place = np.full(num_rows, -1, dtype=np.int64)
    for slot, members in groups.items():
        gather[slot - lo, : len(members)] = members
        place[members] = (slot - lo) * width + np.arange(len(members))
    rows = np.flatnonzero(place >= 0)
    return Grid(
        lo=lo,
        hi=hi,
        width=width,
        gather=torch.from_numpy(gather.reshape(-1)),
        scatter=torch.from_numpy(place[rows]),
        rows=None if num_held == num_rows else torch.from_numpy(rows),
    )


class PackedWeights:
    """A layer's stacked LoRA weights in float32, laid out for the products; follows changes of the stacks by
    itself.

    `a_stacks[i]` is [num_slots, 1, rank, in] and `b_stacks[i]` [num_slots, 1, out_i, rank], as vLLM
    allocates them. vLLM writes a slot in place, which raises the tensors' version counters; `refresh`
    compares them.
    """

    def __init__(self, a_stacks: Sequence[torch.Tensor], b_stacks: Sequence[torch.Tensor]) -> None:
        self._stacks = (tuple(_matrices(a) for a in a_stacks), tuple(_matrices(b) for b in b_stacks))
        self._versions: tuple[int, ...] = ()
        a, b = self._stacks
        self.has_native_products = a[0].dtype == torch.bfloat16 and native_bf16()
        num_slots, in_size = a[0].shape[0], a[0].shape[2]
        self.ranks = tuple(m.shape[1] for m in a)
        self.a = torch.empty(num_slots, in_size, sum(self.ranks))
        """float32[num_slots, in, ranks of all slices]"""
        self.b = tuple(torch.empty(num_slots, m.shape[2], m.shape[1]) for m in b)
        """per slice float32[num_slots, rank, out_i]"""
        self.out_size = sum(m.shape[1] for m in b)
        self.present = [False] * num_slots
        """Whether the slot's adapter changes this layer at all."""

    def slot(self, slot: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """vLLM's own A[rank, in] and B[out_i, rank] of each slice of `slot`."""
        a, b = self._stacks
        for a_stack, b_stack in zip(a, b, strict=True):
            yield a_stack[slot], b_stack[slot]

    def refresh(self) -> None:
        """Copy the stacks if they have changed. Costs a few comparisons when they have not."""
        a_stacks, b_stacks = self._stacks
        versions = tuple(t._version for t in (*a_stacks, *b_stacks))
        if versions == self._versions:
            return
        self._versions = versions
        torch.cat([a.transpose(1, 2).float() for a in a_stacks], dim=2, out=self.a)
        for packed, stack in zip(self.b, b_stacks, strict=True):
            packed.copy_(stack.transpose(1, 2))
        present = torch.zeros(len(self.present), dtype=torch.bool)
        for stack in b_stacks:
            present |= (stack != 0).flatten(1).any(dim=1)
        self.present = present.tolist()


def _matrices(stack: torch.Tensor) -> torch.Tensor:
    """[num_slots, 1, rows, columns] or [num_slots, rows, columns] as the latter; a view, so it shares the
    version."""
    return stack.squeeze(1) if stack.dim() == 4 else stack


def add_lora(
    y: torch.Tensor, x: torch.Tensor, weights: PackedWeights, plan: RowPlan, scale: float, offset: int = 0
) -> None:
    """`y[r, offset:] += scale * x[r] @ A[slot] @ B[slot]` for each row with an adapter, slices side by side.

    `y` is [num_rows, >= offset + out], `x` [num_rows, in], in any float type. The products are float32; the
    sum is rounded once to the type of `y`.
    """
    weights.refresh()
    if not any(weights.present[slot] for slot in plan.slots):
        return
    if x.shape[0] != plan.num_rows:
        raise RuntimeError(f"{x.shape[0]} rows, but the step's LoRA mapping is for {plan.num_rows}")
    out_size = min(weights.out_size, y.shape[1] - offset)  # vLLM may pad the two vocabularies differently
    if offset or out_size != y.shape[1]:
        y = y[:, offset : offset + out_size]
    for segment in plan.segments:
        if weights.present[segment.slot]:
            _add_segment(y, x, weights, segment, scale)
    if plan.grid is not None:
        _add_grid(y, x, weights, plan.grid, scale)


def _add_segment(
    y: torch.Tensor, x: torch.Tensor, weights: PackedWeights, segment: Segment, scale: float
) -> None:
    rows = segment.rows
    if isinstance(rows, slice):
        _add_to_rows(y[rows], x[rows], weights, segment.slot, scale)
    else:
        ys = y.index_select(0, rows)
        _add_to_rows(ys, x.index_select(0, rows), weights, segment.slot, scale)
        y.index_copy_(0, rows, ys)


def _add_to_rows(y: torch.Tensor, x: torch.Tensor, weights: PackedWeights, slot: int, scale: float) -> None:
    """`y += scale * x @ A[slot] @ B[slot]`."""
    out_start = 0
    if weights.has_native_products and x.dtype == y.dtype == torch.bfloat16:
        for a, b in weights.slot(slot):
            target = y[:, out_start : out_start + b.shape[0]]
            target.addmm_(x @ a.t(), b[: target.shape[1]].t(), alpha=scale)
            out_start += b.shape[0]
        return
    h = x.float() @ weights.a[slot]  # (rows, ranks)
    if scale != 1.0:
        h *= scale
    rank_start = 0
    for rank, b in zip(weights.ranks, weights.b, strict=True):
        target = y[:, out_start : out_start + b.shape[2]]
        hi, bi = h[:, rank_start : rank_start + rank], b[slot, :, : target.shape[1]]
        if target.dtype == torch.float32:
            target.addmm_(hi, bi)
        else:
            target.add_(hi @ bi)
        rank_start += rank
        out_start += b.shape[2]


def _add_grid(y: torch.Tensor, x: torch.Tensor, weights: PackedWeights, grid: Grid, scale: float) -> None:
    xs = x.index_select(0, grid.gather).float().view(grid.hi - grid.lo, grid.width, -1)
    h = torch.bmm(xs, weights.a[grid.lo : grid.hi])  # (slots, width, ranks)
    if scale != 1.0:
        h *= scale
    if len(weights.b) == 1:
        delta = torch.bmm(h, weights.b[0][grid.lo : grid.hi])  # (slots, width, out)
    else:
        hs = h.split(weights.ranks, dim=2)
        delta = torch.cat(
            [torch.bmm(hi, b[grid.lo : grid.hi]) for hi, b in zip(hs, weights.b, strict=True)], dim=2
        )
    out = delta.view(grid.gather.shape[0], -1).index_select(0, grid.scatter)
    if out.shape[1] != y.shape[1]:
        out = out[:, : y.shape[1]]
    if grid.rows is None:
        y.copy_(out.add_(y))
    else:
        y.index_copy_(0, grid.rows, out.add_(y.index_select(0, grid.rows)).to(y.dtype))


def shrink(y: torch.Tensor, x: torch.Tensor, a_stack: torch.Tensor, plan: RowPlan, scale: float) -> None:
    """`y[r, :rank] = scale * x[r] @ A[slot]^T` for each row with an adapter (tensor-parallel layers, one
    slice)."""
    a = _matrices(a_stack)
    for slot, rows in plan.groups:
        h = x.index_select(0, rows).float() @ a[slot].t().float()
        y[rows, : h.shape[1]] = (h * scale).to(y.dtype)


def expand(
    y: torch.Tensor, x: torch.Tensor, b_stack: torch.Tensor, plan: RowPlan, offset: int, add_inputs: bool
) -> None:
    """`y[r, offset : offset + out] (+)= x[r] @ B[slot]^T` for each row with an adapter (one slice)."""
    b = _matrices(b_stack)
    out_size = min(b.shape[1], y.shape[1] - offset)
    target = y[:, offset : offset + out_size]
    for slot, rows in plan.groups:
        delta = x.index_select(0, rows).float() @ b[slot, :out_size].t().float()
        if add_inputs:
            delta += target.index_select(0, rows)
        target.index_copy_(0, rows, delta.to(y.dtype))
