"""vLLM's PunicaWrapper for CPUs, on top of `ops`. One instance per model, called by every LoRA layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from adaptive_lora.engine.cpu_lora import ops

if TYPE_CHECKING:
    from vllm.lora.layers import LoRAMapping

_NOTHING = ops.plan_rows([])


def _place_lora_beside_packed_layers() -> None:
    """Let vLLM wrap int8 layers. Before it does, it makes its wrapper, this one.

    oneDNN's int8 product keeps a packed copy and leaves `layer.weight` None; vLLM (0.32) asks that None for
    the device of the LoRA matrices, and does not start. Here there is only one device.
    """
    from vllm.lora.layers import base_linear

    base_linear._get_lora_device = lambda base_layer: torch.device("cpu")


class GroupedPunicaWrapperCPU(PunicaWrapperCPU):  # type: ignore[misc]
    """Rows of the base model stay as they are; the others are grouped by adapter once per step.

    Differs from `PunicaWrapperCPU` in the arithmetic only: signatures, buffers and the life cycle are
    inherited.
    """

    def __init__(
        self, max_num_batched_tokens: int, max_batches: int, device: torch.device | str, **kwargs: Any
    ) -> None:
        super().__init__(max_num_batched_tokens, max_batches, device, **kwargs)
        self._token_plan = _NOTHING
        self._sampler_plan = _NOTHING
        self._packed: dict[int, tuple[Any, ops.PackedWeights]] = {}
        _place_lora_beside_packed_layers()

    def update_metadata(
        self,
        mapping: LoRAMapping,
        lora_index_to_id: list[int | None],
        max_loras: int,
        vocab_size: int,
        **kwargs: Any,
    ) -> None:
        # Not the parent's: its prefill metadata serves kernels that are not used here.
        self._update_base_metadata(mapping, lora_index_to_id, max_loras, vocab_size)
        self.is_prefill = mapping.is_prefill
        self._token_plan = ops.plan_rows(self.token_lora_indices)
        self._sampler_plan = ops.plan_rows(self.sampler_indices)
        self.no_lora = not self._token_plan.slots

    def _weights(self, a: Any, b: Any) -> ops.PackedWeights:
        """The packed form of a layer's stacks. Keyed by identity; the entry keeps `a` alive, so ids stay
        unique."""
        entry = self._packed.get(id(a))
        if entry is None:
            stacks = (a, b) if isinstance(a, tuple) else ((a,), (b,))
            entry = self._packed[id(a)] = (a, ops.PackedWeights(*stacks))
        return entry[1]

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[torch.Tensor, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._token_plan.slots:
            y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
            ops.add_lora(y, x, self._weights(lora_a_stacked, lora_b_stacked), self._token_plan, scale)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        *,
        buffer: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        if self._sampler_plan.slots:
            y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
            ops.add_lora(y, x, self._weights(lora_a_stacked, lora_b_stacked), self._sampler_plan, scale)

    def add_lora_embedding(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        add_inputs: bool = True,
        **kwargs: Any,
    ) -> None:
        ops.expand(y, x, lora_b_stacked, self._token_plan, 0, add_inputs)

    def add_shrink(
        self,
        y: tuple[torch.Tensor, ...] | torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        scale: float,
        **kwargs: Any,
    ) -> None:
        x = x.view(-1, x.shape[-1])
        for y_slice, a in zip(y, lora_a_stacked, strict=True):
            ops.shrink(y_slice.view(-1, y_slice.shape[-1]), x, a, self._token_plan, scale)

    def add_expand(
        self,
        y: torch.Tensor,
        x: tuple[torch.Tensor, ...] | torch.Tensor,
        lora_b_stacked: tuple[torch.Tensor, ...],
        output_slices: tuple[int, ...],
        offset_start: int = 0,
        add_inputs: bool = True,
        **kwargs: Any,
    ) -> None:
        y = y.view(-1, y.shape[-1])
        offset = offset_start
        for x_slice, b, size in zip(x, lora_b_stacked, output_slices, strict=True):
            ops.expand(y, x_slice, b, self._token_plan, offset, add_inputs)
            offset += size
