"""Memory in bytes, per GPU: weights, KV cache, adapters, and what is assumed for the rest."""

from __future__ import annotations

from dataclasses import dataclass

from adaptive_lora.sizing.models import ModelShape

GIB = 1 << 30
BLOCK_TOKENS = 16
"""vLLM's block of KV cache on GPUs; every sequence holds whole blocks."""

LINEAR_BYTES = {
    "bf16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.5 + 2 / 32,
    "awq": 0.5 + 2.5 / 128,
    "gptq": 0.5 + 2.5 / 128,
    "nf4": 0.5 + 4 / 64,
}
"""Bytes of a weight in a linear layer, its share of scales included; embeddings, `lm_head` and norms stay in
bf16. int4 is `w4a16-int4` of `quantise make`: a bf16 scale for 32 weights. awq and gptq: groups of 128, with
a scale of two bytes and a zero point of half a byte. nf4: one float32 for 64 weights, because vLLM undoes
bitsandbytes' second quantisation, of these, while it loads. int8's scales, one a channel, are left out."""

ADAPTER_BYTES = 2
"""vLLM holds adapters in the model's type, bf16, whatever their files have."""

CUDA_BYTES = 600 << 20
NCCL_BYTES = 600 << 20
GRAPH_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be served."""

    quant: str = "bf16"
    n_adapters: int = 8
    rank: int = 16
    """The largest of any adapter; slots are made for it."""
    n_slots: int = 8
    """adapters.max_loras"""
    context: int = 4096
    """Tokens of a sequence, prompt and answer."""
    concurrency: int = 32
    """Sequences at once: inference.max_batch_size."""
    batched_tokens: int = 8192
    """Most tokens of one step: the larger of vLLM's defaults for GPUs below 160 GB."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one GPU, in bytes."""

    weights: int
    slots: int
    kv_cache: int
    overhead: int
    kv_sequence: int
    """KV cache of one sequence; `kv_cache` is that of all."""

    @property
    def total(self) -> int:
        return self.fixed + self.kv_cache

    @property
    def fixed(self) -> int:
        """All but the KV cache."""
        return self.weights + self.slots + self.overhead


def memory(shape: ModelShape, load: Load, tensor_parallel: int = 1) -> Memory:
    """What one of `tensor_parallel` GPUs holds."""
    sequence = sequence_bytes(shape, load.context, tensor_parallel)
    return Memory(
        weights=weights_bytes(shape, load.quant, tensor_parallel),
        slots=load.n_slots * slot_bytes(shape, load.rank, tensor_parallel),
        kv_cache=load.concurrency * sequence,
        overhead=overhead_bytes(shape, load, tensor_parallel),
        kv_sequence=sequence,
    )


def weights_bytes(shape: ModelShape, quant: str, tensor_parallel: int = 1) -> int:
    """Linear layers and embeddings are split, norms are not."""
    split = shape.n_linear * LINEAR_BYTES[quant] + 2 * shape.n_embedding
    return int(split / tensor_parallel) + 2 * shape.n_small


def kv_bytes_per_token(shape: ModelShape, tensor_parallel: int = 1) -> int:
    """Keys and values of a token in bf16. With more GPUs than KV heads each GPU holds a copy of one."""
    heads = max(1, shape.n_kv_heads // tensor_parallel)
    return 2 * shape.n_layers * heads * shape.head_dim * 2


def sequence_bytes(shape: ModelShape, context: int, tensor_parallel: int = 1) -> int:
    blocks = -(-context // BLOCK_TOKENS)
    return blocks * BLOCK_TOKENS * kv_bytes_per_token(shape, tensor_parallel)


def adapter_bytes(shape: ModelShape, rank: int) -> int:
    """An adapter on all seven linear layers, in host memory."""
    n_rows = sum(inputs + outputs for inputs, outputs in shape.linear_layers.values())
    return shape.n_layers * rank * n_rows * ADAPTER_BYTES


def slot_bytes(shape: ModelShape, rank: int, tensor_parallel: int = 1) -> int:
    """A slot is made for every layer that an adapter may change, the embedding and `lm_head` too, whether one
    does or not.

    With several GPUs vLLM splits what is as large as the split side of the layer, and copies the other.
    """
    n_rows = 0.0
    for name, (inputs, outputs) in shape.linear_layers.items():
        if name in ("o_proj", "down_proj"):  # split by their inputs
            n_rows += inputs / tensor_parallel + outputs
        else:
            n_rows += inputs + outputs / tensor_parallel
    ends = 2 * (shape.vocab_size + shape.hidden_size)
    return int(rank * (shape.n_layers * n_rows + ends) * ADAPTER_BYTES)


def overhead_bytes(shape: ModelShape, load: Load, tensor_parallel: int = 1) -> int:
    """An assumption, not a measurement, for what vLLM measures when it starts: the CUDA context and its
    libraries, NCCL's buffers between GPUs, CUDA graphs, and the largest step's activations: of each token,
    four hidden states and the MLP's two inner ones and their product, in bf16; of each sequence, its logits
    in bf16 and in float32 twice."""
    inner = 3 * shape.intermediate_size / tensor_parallel
    activations = load.batched_tokens * (4 * shape.hidden_size + inner) * 2
    logits = load.concurrency * shape.vocab_size * (2 + 4 + 4)
    nccl = NCCL_BYTES if tensor_parallel > 1 else 0
    return int(CUDA_BYTES + nccl + GRAPH_BYTES + activations + logits)
