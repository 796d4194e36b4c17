"""Llama models and PEFT adapters with random weights, for tests and benchmarks. Heavy: needs torch."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

TINY_CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,  # heads of 32: the smallest that vLLM's CPU attention has
    "num_key_value_heads": 1,
    "vocab_size": 259,
    "max_position_embeddings": 256,
}
"""For tests: grouped-query attention, 259 tokens (the bytes and three specials), 0.1 M parameters."""

CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}{{ 'assistant ' }}"
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")


def make_model(
    folder: Path,
    config: Mapping[str, int] = TINY_CONFIG,
    *,
    seed: int = 0,
    dtype: str = "float32",
    tokenizer: Literal["bytes", "words"] = "bytes",
    chat_template: str | None = CHAT_TEMPLATE,
) -> Path:
    """Write a Llama with random weights and its tokenizer to `folder`, as Hugging Face lays them out."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    llama = LlamaConfig(**config, bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False)
    model = LlamaForCausalLM(llama)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
        # With transformers' small default the prompt would drown in the layers' output.
        model.model.embed_tokens.weight.normal_(0, 1)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    _make_tokenizer(folder, config["vocab_size"], tokenizer, chat_template)
    return folder


def _make_tokenizer(folder: Path, vocab_size: int, kind: str, chat_template: str | None) -> None:
    """ "words": w3, w4, ... between spaces are one token each; "bytes": every byte of UTF-8 is one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    unk, bos, eos = SPECIAL_TOKENS
    vocab = {token: i for i, token in enumerate(SPECIAL_TOKENS)}
    if kind == "words":
        vocab |= {f"w{i}": i for i in range(3, vocab_size)}
        tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=unk))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    else:
        vocab |= {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), start=3)}
        tokenizer = Tokenizer(models.BPE(vocab, [], unk_token=unk))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=unk, bos_token=bos, eos_token=eos, pad_token=unk
    )
    fast.chat_template = chat_template
    fast.save_pretrained(folder)


def make_adapters(
    folder: Path,
    n: int,
    rank: int,
    *,
    base: Path,
    seed: int = 0,
    strength: float = 1.0,
    modules: Sequence[str] = MODULES,
) -> list[Path]:
    """`n` PEFT adapters adapter-0, adapter-1, ... of `base` with random weights; `strength` scales B @ A.

    With strength 1 an adapter changes a layer's output as much as the layer's own weights do.
    """
    config = json.loads((base / "config.json").read_text())
    return [
        _make_adapter(folder / f"adapter-{i}", config, rank, str(base), seed * 1000 + i, strength, modules)
        for i in range(n)
    ]


def _make_adapter(
    path: Path,
    config: Mapping[str, Any],
    rank: int,
    base: str,
    seed: int,
    strength: float,
    modules: Sequence[str],
) -> Path:
    import torch
    from safetensors.torch import save_file

    dtype = getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32"))
    generator = torch.Generator().manual_seed(seed)
    sizes = _module_sizes(config)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for module in modules:
            n_in, n_out = sizes[module]
            block = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            name = f"base_model.model.model.layers.{layer}.{block}.{module}"
            a = torch.randn(rank, n_in, generator=generator) * n_in**-0.5
            b = torch.randn(n_out, rank, generator=generator) * rank**-0.5 * strength
            tensors[f"{name}.lora_A.weight"] = a.to(dtype).contiguous()
            tensors[f"{name}.lora_B.weight"] = b.to(dtype).contiguous()
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / "adapter_model.safetensors")
    peft = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(modules),
    }
    (path / "adapter_config.json").write_text(json.dumps(peft, indent=2))
    return path


def _module_sizes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """(in, out) of each linear layer."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    return {
        "q_proj": (hidden, hidden),
        "k_proj": (hidden, kv),
        "v_proj": (hidden, kv),
        "o_proj": (hidden, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def make_prompts(n: int, n_tokens: int, *, vocab_size: int = 8192, seed: int = 0) -> list[str]:
    """`n` prompts of exactly `n_tokens` tokens each for a model with the "words" tokenizer."""
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(3, vocab_size)}" for _ in range(n_tokens)) for _ in range(n)]
